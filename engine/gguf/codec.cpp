// Block layouts: element i of a block lies where the comments say; h is an IEEE half, nib(q, i) the
// nibble i < 16 ? q[i] & 15 : q[i - 16] >> 4. The order of the float operations is ggml's, so
// results are bit-equal.
#include "engine/gguf/codec.h"

#include <array>

#include "engine/base/text.h"

// A fused multiply-add would round once where ggml rounds twice.
#pragma STDC FP_CONTRACT OFF

namespace lapidary::gguf {
namespace {

constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};
// E2M1 values, doubled so that they are whole; the scale is halved in return.
constexpr std::array<int8_t, 16> kMxfp4Values = {0, 1,  2,  3,  4,  6,  8,  12,
                                                 0, -1, -2, -3, -4, -6, -8, -12};

uint8_t u8(Bytes block, size_t at) { return std::to_integer<uint8_t>(block[at]); }
int8_t i8(Bytes block, size_t at) { return static_cast<int8_t>(u8(block, at)); }
float half(Bytes block, size_t at) { return half_to_float(load<uint16_t>(block, at)); }

int nibble32(Bytes block, size_t quants, size_t i) {
  return i < 16 ? u8(block, quants + i) & 15 : u8(block, quants + i - 16) >> 4;
}

// 2^(e-128), exact for the two exponents whose result is subnormal.
float e8m0_half(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : uint32_t{e - 1u} << 23);
}

void decode_f32(Bytes block, float* y) { y[0] = load<float>(block, 0); }
void decode_f16(Bytes block, float* y) { y[0] = half(block, 0); }
void decode_bf16(Bytes block, float* y) { y[0] = bf16_to_float(load<uint16_t>(block, 0)); }

// h d; u8 q[16]
void decode_q4_0(Bytes block, float* y) {
  const float d = half(block, 0);
  for (size_t i = 0; i < 32; ++i) y[i] = static_cast<float>(nibble32(block, 2, i) - 8) * d;
}

// h d; h m; u8 q[16]
void decode_q4_1(Bytes block, float* y) {
  const float d = half(block, 0), m = half(block, 2);
  for (size_t i = 0; i < 32; ++i) y[i] = static_cast<float>(nibble32(block, 4, i)) * d + m;
}

// h d; u32 high bits; u8 q[16]
void decode_q5_0(Bytes block, float* y) {
  const float d = half(block, 0);
  const auto high = load<uint32_t>(block, 2);
  for (size_t i = 0; i < 32; ++i) {
    const int v = nibble32(block, 6, i) | static_cast<int>((high >> i) & 1) << 4;
    y[i] = static_cast<float>(v - 16) * d;
  }
}

// h d; h m; u32 high bits; u8 q[16]
void decode_q5_1(Bytes block, float* y) {
  const float d = half(block, 0), m = half(block, 2);
  const auto high = load<uint32_t>(block, 4);
  for (size_t i = 0; i < 32; ++i) {
    const int v = nibble32(block, 8, i) | static_cast<int>((high >> i) & 1) << 4;
    y[i] = static_cast<float>(v) * d + m;
  }
}

// h d; i8 q[32]
void decode_q8_0(Bytes block, float* y) {
  const float d = half(block, 0);
  for (size_t i = 0; i < 32; ++i) y[i] = static_cast<float>(i8(block, 2 + i)) * d;
}

// u8 scale | min << 4 [16]; u8 q[64]; h d; h dmin
void decode_q2_k(Bytes block, float* y) {
  const float d = half(block, 80), dmin = half(block, 82);
  for (size_t i = 0; i < 256; ++i) {
    const int scale = u8(block, i / 16);
    const int v = (u8(block, 16 + 32 * (i / 128) + i % 32) >> (2 * (i % 128 / 32))) & 3;
    const float dl = d * static_cast<float>(scale & 15);
    const float ml = dmin * static_cast<float>(scale >> 4);
    y[i] = dl * static_cast<float>(v) - ml;
  }
}

// u8 high bits[32]; u8 q[64]; u8 6-bit scales[12]; h d
void decode_q3_k(Bytes block, float* y) {
  const float d = half(block, 108);
  for (size_t i = 0; i < 256; ++i) {
    const size_t k = i / 16;
    const int low = k < 8 ? u8(block, 96 + k) & 15 : u8(block, 96 + k - 8) >> 4;
    const int scale = low | ((u8(block, 104 + k % 4) >> (2 * (k / 4))) & 3) << 4;
    const int v = (u8(block, 32 + 32 * (i / 128) + i % 32) >> (2 * (i % 128 / 32))) & 3;
    const bool high = ((u8(block, i % 32) >> (i / 32)) & 1) != 0;
    const float dl = d * static_cast<float>(scale - 32);
    y[i] = dl * static_cast<float>(v - (high ? 0 : 4));
  }
}

struct ScaleMin {
  int scale, min;
};

// The 6-bit scale and min of sub-block g of Q4_K and Q5_K, packed in the 12 bytes at `at`.
ScaleMin scale_min_k4(Bytes block, size_t at, size_t g) {
  const auto s = [&](size_t i) { return int{u8(block, at + i)}; };
  if (g < 4) return {s(g) & 63, s(g + 4) & 63};
  return {(s(g + 4) & 15) | (s(g - 4) >> 6) << 4, (s(g + 4) >> 4) | (s(g) >> 6) << 4};
}

// h d; h dmin; u8 scales[12]; u8 q[128]
void decode_q4_k(Bytes block, float* y) {
  const float d = half(block, 0), dmin = half(block, 2);
  for (size_t g = 0; g < 8; ++g) {
    const auto [scale, min] = scale_min_k4(block, 4, g);
    const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(min);
    for (size_t l = 0; l < 32; ++l) {
      const int v = (u8(block, 16 + 32 * (g / 2) + l) >> (4 * (g & 1))) & 15;
      y[32 * g + l] = dl * static_cast<float>(v) - ml;
    }
  }
}

// h d; h dmin; u8 scales[12]; u8 high bits[32]; u8 q[128]
void decode_q5_k(Bytes block, float* y) {
  const float d = half(block, 0), dmin = half(block, 2);
  for (size_t g = 0; g < 8; ++g) {
    const auto [scale, min] = scale_min_k4(block, 4, g);
    const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(min);
    for (size_t l = 0; l < 32; ++l) {
      const int low = (u8(block, 48 + 32 * (g / 2) + l) >> (4 * (g & 1))) & 15;
      const int v = low | ((u8(block, 16 + l) >> g) & 1) << 4;
      y[32 * g + l] = dl * static_cast<float>(v) - ml;
    }
  }
}

// u8 low[128]; u8 high[64]; i8 scales[16]; h d
void decode_q6_k(Bytes block, float* y) {
  const float d = half(block, 208);
  for (size_t i = 0; i < 256; ++i) {
    const size_t n = i / 128, r = i % 128 / 32, l = i % 32;
    const int low = (u8(block, 64 * n + 32 * (r & 1) + l) >> (4 * (r >> 1))) & 15;
    const int v = low | ((u8(block, 128 + 32 * n + l) >> (2 * r)) & 3) << 4;
    y[i] = d * static_cast<float>(i8(block, 192 + i / 16)) * static_cast<float>(v - 32);
  }
}

// f32 d; i8 q[256]; i16 sums of 16 [16]
void decode_q8_k(Bytes block, float* y) {
  const float d = load<float>(block, 0);
  for (size_t i = 0; i < 256; ++i) y[i] = d * static_cast<float>(i8(block, 4 + i));
}

// h d; u8 q[16]
void decode_iq4_nl(Bytes block, float* y) {
  const float d = half(block, 0);
  for (size_t i = 0; i < 32; ++i) {
    y[i] = d * static_cast<float>(kIq4Values[static_cast<size_t>(nibble32(block, 2, i))]);
  }
}

// h d; u16 scales' high bits; u8 scales' low nibbles[4]; u8 q[128]
void decode_iq4_xs(Bytes block, float* y) {
  const float d = half(block, 0);
  const auto high = load<uint16_t>(block, 2);
  for (size_t g = 0; g < 8; ++g) {
    const int low = (u8(block, 4 + g / 2) >> (4 * (g & 1))) & 15;
    const float dl = d * static_cast<float>((low | ((high >> (2 * g)) & 3) << 4) - 32);
    for (size_t i = 0; i < 32; ++i) {
      const int v = nibble32(block, 8 + 16 * g, i);
      y[32 * g + i] = dl * static_cast<float>(kIq4Values[static_cast<size_t>(v)]);
    }
  }
}

// u8 e; u8 q[16]
void decode_mxfp4(Bytes block, float* y) {
  const float d = e8m0_half(u8(block, 0));
  for (size_t i = 0; i < 32; ++i) {
    y[i] = static_cast<float>(kMxfp4Values[static_cast<size_t>(nibble32(block, 1, i))]) * d;
  }
}

using DecodeBlock = void (*)(Bytes block, float* y);

DecodeBlock decoder(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return decode_f32;
    case TensorType::kF16:
      return decode_f16;
    case TensorType::kBF16:
      return decode_bf16;
    case TensorType::kQ4_0:
      return decode_q4_0;
    case TensorType::kQ4_1:
      return decode_q4_1;
    case TensorType::kQ5_0:
      return decode_q5_0;
    case TensorType::kQ5_1:
      return decode_q5_1;
    case TensorType::kQ8_0:
      return decode_q8_0;
    case TensorType::kQ2_K:
      return decode_q2_k;
    case TensorType::kQ3_K:
      return decode_q3_k;
    case TensorType::kQ4_K:
      return decode_q4_k;
    case TensorType::kQ5_K:
      return decode_q5_k;
    case TensorType::kQ6_K:
      return decode_q6_k;
    case TensorType::kQ8_K:
      return decode_q8_k;
    case TensorType::kIQ4_NL:
      return decode_iq4_nl;
    case TensorType::kIQ4_XS:
      return decode_iq4_xs;
    case TensorType::kMXFP4:
      return decode_mxfp4;
    default:
      return nullptr;
  }
}

}  // namespace

Status decode_block_row(TensorType type, Bytes in, std::span<float> out) {
  const DecodeBlock decode = decoder(type);
  if (!decode) {
    return fail(ErrorCode::kUnsupported,
                cat("tensor type ", tensor_type_name(static_cast<uint32_t>(type)),
                    " cannot be decoded here; use a file quantised to a supported type"));
  }
  TRY(const uint64_t bytes, tensor_bytes(type, out.size()));
  if (in.size() != bytes) {
    return fail(ErrorCode::kInvalidArgument,
                cat(out.size(), " elements of ", tensor_type_info(type).name, " take ", bytes,
                    " bytes, not ", in.size()));
  }
  const size_t block_bytes = tensor_type_info(type).block_bytes;
  const size_t block_elements = tensor_type_info(type).block_elements;
  for (size_t b = 0; b < out.size() / block_elements; ++b) {
    decode(in.subspan(b * block_bytes, block_bytes), out.data() + b * block_elements);
  }
  return {};
}

}  // namespace lapidary::gguf
