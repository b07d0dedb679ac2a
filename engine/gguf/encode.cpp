#include "engine/gguf/encode.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::gguf {
namespace {

using Out = std::byte*;

void put_half(Out out, float value) {
  const uint16_t bits = float_to_half(value);
  std::memcpy(out, &bits, sizeof bits);
}

float rounded_to_half(float value) { return half_to_float(float_to_half(value)); }

void or_byte(Out out, int bits) { *out |= static_cast<std::byte>(bits); }

// x / scale to the nearest whole number in [low, high]; 0 (clamped) where the scale is 0.
int quantise(float x, float scale, int low, int high) {
  const float q = scale == 0 ? 0 : std::round(x / scale);
  return static_cast<int>(std::clamp(q, static_cast<float>(low), static_cast<float>(high)));
}

void put_nibble32(Out quants, size_t i, int v) {
  or_byte(quants + i % 16, i < 16 ? v & 15 : (v & 15) << 4);
}

float largest_magnitude(std::span<const float> x) {
  float largest = 0;
  for (const float v : x) {
    if (std::fabs(v) > std::fabs(largest)) largest = v;
  }
  return largest;
}

void encode_f32(std::span<const float> x, Out out) { std::memcpy(out, x.data(), sizeof(float)); }
void encode_f16(std::span<const float> x, Out out) { put_half(out, x[0]); }

void encode_bf16(std::span<const float> x, Out out) {
  const auto bits = std::bit_cast<uint32_t>(x[0]);
  const auto rounded = static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
  std::memcpy(out, &rounded, sizeof rounded);
}

void encode_q8_0(std::span<const float> x, Out out) {
  const float d = rounded_to_half(std::fabs(largest_magnitude(x)) / 127);
  put_half(out, d);
  for (size_t i = 0; i < 32; ++i) or_byte(out + 2 + i, quantise(x[i], d, -127, 127) & 255);
}

// Signed with an offset: the value of largest magnitude maps to -2^(bits-1).
void encode_symmetric32(std::span<const float> x, Out out, int bits) {
  const int offset = 1 << (bits - 1);
  const float d = rounded_to_half(largest_magnitude(x) / static_cast<float>(-offset));
  put_half(out, d);
  for (size_t i = 0; i < 32; ++i) {
    const int v = quantise(x[i], d, -offset, offset - 1) + offset;
    put_nibble32(out + (bits == 5 ? 6 : 2), i, v);
    if (bits == 5) or_byte(out + 2 + i / 8, (v >> 4) << (i % 8));
  }
}

// Unsigned with a minimum.
void encode_affine32(std::span<const float> x, Out out, int bits) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const int levels = (1 << bits) - 1;
  const float m = rounded_to_half(*low);
  const float d = rounded_to_half((*high - *low) / static_cast<float>(levels));
  put_half(out, d);
  put_half(out + 2, m);
  for (size_t i = 0; i < 32; ++i) {
    const int v = quantise(x[i] - m, d, 0, levels);
    put_nibble32(out + (bits == 5 ? 8 : 4), i, v);
    if (bits == 5) or_byte(out + 4 + i / 8, (v >> 4) << (i % 8));
  }
}

void encode_q4_0(std::span<const float> x, Out out) { encode_symmetric32(x, out, 4); }
void encode_q5_0(std::span<const float> x, Out out) { encode_symmetric32(x, out, 5); }
void encode_q4_1(std::span<const float> x, Out out) { encode_affine32(x, out, 4); }
void encode_q5_1(std::span<const float> x, Out out) { encode_affine32(x, out, 5); }

// Q4_K and Q5_K: eight sub-blocks of 32 with a 6-bit scale and a 6-bit (subtracted) minimum each.
void encode_k45(std::span<const float> x, Out out, int bits) {
  const int levels = (1 << bits) - 1;
  std::array<float, 8> scales{}, mins{};
  for (size_t g = 0; g < 8; ++g) {
    const auto sub = x.subspan(32 * g, 32);
    const auto [low, high] = std::minmax_element(sub.begin(), sub.end());
    mins[g] = std::max(0.0f, -*low);
    scales[g] = (std::max(*high, 0.0f) + mins[g]) / static_cast<float>(levels);
  }
  const float d = rounded_to_half(*std::max_element(scales.begin(), scales.end()) / 63);
  const float dmin = rounded_to_half(*std::max_element(mins.begin(), mins.end()) / 63);
  put_half(out, d);
  put_half(out + 2, dmin);
  const Out packed = out + 4;
  const Out high_bits = out + 16;
  const Out quants = out + (bits == 5 ? 48 : 16);
  for (size_t g = 0; g < 8; ++g) {
    const int scale = quantise(scales[g], d, 0, 63), min = quantise(mins[g], dmin, 0, 63);
    if (g < 4) {
      or_byte(packed + g, scale);
      or_byte(packed + g + 4, min);
    } else {
      or_byte(packed + g + 4, (scale & 15) | (min & 15) << 4);
      or_byte(packed + g - 4, (scale >> 4) << 6);
      or_byte(packed + g, (min >> 4) << 6);
    }
    const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(min);
    for (size_t l = 0; l < 32; ++l) {
      const int v = quantise(x[32 * g + l] + ml, dl, 0, levels);
      or_byte(quants + 32 * (g / 2) + l, (v & 15) << (4 * (g & 1)));
      if (bits == 5) or_byte(high_bits + l, (v >> 4) << g);
    }
  }
}

void encode_q4_k(std::span<const float> x, Out out) { encode_k45(x, out, 4); }
void encode_q5_k(std::span<const float> x, Out out) { encode_k45(x, out, 5); }

void encode_q6_k(std::span<const float> x, Out out) {
  std::array<float, 16> scales{};
  for (size_t k = 0; k < 16; ++k) scales[k] = largest_magnitude(x.subspan(16 * k, 16)) / -32;
  const float d = rounded_to_half(std::fabs(largest_magnitude(scales)) / 127);
  put_half(out + 208, d);
  for (size_t k = 0; k < 16; ++k) {
    const int scale = quantise(scales[k], d, -127, 127);
    or_byte(out + 192 + k, scale & 255);
    for (size_t i = 16 * k; i < 16 * k + 16; ++i) {
      const int v = quantise(x[i], d * static_cast<float>(scale), -32, 31) + 32;
      const size_t n = i / 128, r = i % 128 / 32, l = i % 32;
      or_byte(out + 64 * n + 32 * (r & 1) + l, (v & 15) << (4 * (r >> 1)));
      or_byte(out + 128 + 32 * n + l, (v >> 4) << (2 * r));
    }
  }
}

using EncodeBlock = void (*)(std::span<const float> x, Out out);

EncodeBlock encoder(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return encode_f32;
    case TensorType::kF16:
      return encode_f16;
    case TensorType::kBF16:
      return encode_bf16;
    case TensorType::kQ8_0:
      return encode_q8_0;
    case TensorType::kQ4_0:
      return encode_q4_0;
    case TensorType::kQ4_1:
      return encode_q4_1;
    case TensorType::kQ5_0:
      return encode_q5_0;
    case TensorType::kQ5_1:
      return encode_q5_1;
    case TensorType::kQ4_K:
      return encode_q4_k;
    case TensorType::kQ5_K:
      return encode_q5_k;
    case TensorType::kQ6_K:
      return encode_q6_k;
    default:
      return nullptr;
  }
}

}  // namespace

Result<std::vector<std::byte>> encode_block_row(TensorType type, std::span<const float> values) {
  const EncodeBlock encode = encoder(type);
  if (!encode) {
    return fail(ErrorCode::kUnsupported,
                cat("no encoder for tensor type ", tensor_type_name(static_cast<uint32_t>(type))));
  }
  TRY(const uint64_t bytes, tensor_bytes(type, values.size()));
  std::vector<std::byte> out(static_cast<size_t>(bytes));  // zeroed: the encoders OR bits in
  const TensorTypeInfo& info = tensor_type_info(type);
  for (size_t b = 0; b < values.size() / info.block_elements; ++b) {
    encode(values.subspan(b * info.block_elements, info.block_elements),
           out.data() + b * info.block_bytes);
  }
  return out;
}

}  // namespace lapidary::gguf
