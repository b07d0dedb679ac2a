#include "engine/gguf/encode.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

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

// x / scale to the nearest whole number in [low, high]; 0 (clamped) where the scale is 0, low for
// what is no number.
int quantise(float x, float scale, int low, int high) {
  const float q = scale == 0 ? 0 : std::nearbyint(x / scale);
  if (q >= static_cast<float>(high)) return high;
  return q > static_cast<float>(low) ? static_cast<int>(q) : low;
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

// Candidates for a scale map the largest value to so much more or less than the end of the range.
constexpr std::array<float, 9> kStretches = {-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1};

// The scale s for which s q, with whole numbers q from low to high (low = -high - 1), comes closest
// to x: whole numbers by each candidate, then the s that suits them best by least squares.
float search_scale(std::span<const float> x, int low, int high) {
  const float largest = largest_magnitude(x);
  if (largest == 0) return 0;
  float best = largest / static_cast<float>(low), best_gain = -1;
  for (const float stretch : kStretches) {
    const float inverse = (static_cast<float>(low) - stretch) / largest;
    float xq = 0, qq = 0;
    for (const float v : x) {
      const float q = std::clamp(std::nearbyint(v * inverse), static_cast<float>(low),
                                 static_cast<float>(high));
      xq += v * q;
      qq += q * q;
    }
    // The sum of squares is that of x less this.
    const float gain = qq > 0 ? xq * xq / qq : 0;
    if (!(gain > best_gain)) continue;
    best_gain = gain;
    best = xq / qq;
  }
  return best;
}

// x as d q.
struct Symmetric32 {
  float d = 0;
  std::array<int, 32> q{};
  float error = 0;  // sum of squares

  Symmetric32(std::span<const float> x, float scale, int low, int high)
      : d(rounded_to_half(scale)) {
    for (size_t i = 0; i < q.size(); ++i) {
      q[i] = quantise(x[i], d, low, high);
      const float off = x[i] - d * static_cast<float>(q[i]);
      error += off * off;
    }
  }
};

// Signed with an offset.
void encode_symmetric32(std::span<const float> x, Out out, int bits) {
  const int offset = 1 << (bits - 1);
  // The simple scale has the value of largest magnitude exactly; what is searched is better in
  // nearly all blocks.
  Symmetric32 block(x, largest_magnitude(x) / static_cast<float>(-offset), -offset, offset - 1);
  const Symmetric32 searched(x, search_scale(x, -offset, offset - 1), -offset, offset - 1);
  if (searched.error < block.error) block = searched;
  put_half(out, block.d);
  for (size_t i = 0; i < 32; ++i) {
    const int v = block.q[i] + offset;
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
struct Affine {
  float scale = 0, min = 0;  // x = scale q - min, neither below 0
};

Affine simple_affine(std::span<const float> x, int levels) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const float min = std::max(0.0f, -*low);
  return {(std::max(*high, 0.0f) + min) / static_cast<float>(levels), min};
}

// As search_scale(), for a scale and a minimum.
Affine search_affine(std::span<const float> x, int levels) {
  const Affine simple = simple_affine(x, levels);
  if (simple.scale == 0) return simple;
  const auto n = static_cast<float>(x.size()), top = static_cast<float>(levels);
  float x_sum = 0, xx = 0;
  for (const float v : x) {
    x_sum += v;
    xx += v * v;
  }
  Affine best = simple;
  float best_error = std::numeric_limits<float>::infinity();
  for (const float stretch : kStretches) {
    const float inverse = (top + stretch) / (simple.scale * top);
    float q_sum = 0, qq = 0, xq = 0;
    for (const float v : x) {
      const float q = std::clamp(std::nearbyint((v + simple.min) * inverse), 0.0f, top);
      q_sum += q;
      qq += q * q;
      xq += v * q;
    }
    const float determinant = n * qq - q_sum * q_sum;
    if (!(determinant > 0)) continue;
    Affine fit;
    fit.scale = (n * xq - x_sum * q_sum) / determinant;
    fit.min = (fit.scale * q_sum - x_sum) / n;
    if (!(fit.min >= 0)) fit = {xq / qq, 0};
    if (!(fit.scale > 0)) continue;
    const float s = fit.scale, m = fit.min;
    const float error =
        xx - 2 * s * xq + 2 * m * x_sum + s * s * qq - 2 * s * m * q_sum + n * m * m;
    if (error < best_error) {
      best_error = error;
      best = fit;
    }
  }
  return best;
}

// 256 values as their block keeps them.
struct BlockK45 {
  float d = 0, dmin = 0;
  std::array<int, 8> scales{}, mins{};
  std::array<int, 256> q{};
  float error = 0;  // sum of squares

  BlockK45(std::span<const float> x, const std::array<Affine, 8>& wanted, int levels) {
    float scale = 0, min = 0;
    for (const Affine& each : wanted) {
      scale = std::max(scale, each.scale);
      min = std::max(min, each.min);
    }
    d = rounded_to_half(scale / 63);
    dmin = rounded_to_half(min / 63);
    for (size_t g = 0; g < 8; ++g) {
      scales[g] = quantise(wanted[g].scale, d, 0, 63);
      mins[g] = quantise(wanted[g].min, dmin, 0, 63);
      const float s = d * static_cast<float>(scales[g]), m = dmin * static_cast<float>(mins[g]);
      for (size_t i = 32 * g; i < 32 * g + 32; ++i) {
        q[i] = quantise(x[i] + m, s, 0, levels);
        const float off = x[i] - (s * static_cast<float>(q[i]) - m);
        error += off * off;
      }
    }
  }
};

void encode_k45(std::span<const float> x, Out out, int bits) {
  const int levels = (1 << bits) - 1;
  std::array<Affine, 8> simple, searched;
  for (size_t g = 0; g < 8; ++g) {
    simple[g] = simple_affine(x.subspan(32 * g, 32), levels);
    searched[g] = search_affine(x.subspan(32 * g, 32), levels);
  }
  BlockK45 block(x, simple, levels);
  if (const BlockK45 other(x, searched, levels); other.error < block.error) block = other;
  put_half(out, block.d);
  put_half(out + 2, block.dmin);
  const Out packed = out + 4;
  const Out high_bits = out + 16;
  const Out quants = out + (bits == 5 ? 48 : 16);
  for (size_t g = 0; g < 8; ++g) {
    const int scale = block.scales[g], min = block.mins[g];
    if (g < 4) {
      or_byte(packed + g, scale);
      or_byte(packed + g + 4, min);
    } else {
      or_byte(packed + g + 4, (scale & 15) | (min & 15) << 4);
      or_byte(packed + g - 4, (scale >> 4) << 6);
      or_byte(packed + g, (min >> 4) << 6);
    }
    for (size_t l = 0; l < 32; ++l) {
      const int v = block.q[32 * g + l];
      or_byte(quants + 32 * (g / 2) + l, (v & 15) << (4 * (g & 1)));
      if (bits == 5) or_byte(high_bits + l, (v >> 4) << g);
    }
  }
}

void encode_q4_k(std::span<const float> x, Out out) { encode_k45(x, out, 4); }
void encode_q5_k(std::span<const float> x, Out out) { encode_k45(x, out, 5); }

// Q6_K: sixteen sub-blocks of 16 with an 8-bit scale each.
struct BlockQ6K {
  float d = 0;
  std::array<int, 16> scales{};
  std::array<int, 256> q{};
  float error = 0;  // sum of squares

  BlockQ6K(std::span<const float> x, const std::array<float, 16>& wanted)
      : d(rounded_to_half(std::fabs(largest_magnitude(wanted)) / 127)) {
    for (size_t k = 0; k < 16; ++k) {
      scales[k] = quantise(wanted[k], d, -127, 127);
      const float s = d * static_cast<float>(scales[k]);
      for (size_t i = 16 * k; i < 16 * k + 16; ++i) {
        q[i] = quantise(x[i], s, -32, 31);
        const float off = x[i] - s * static_cast<float>(q[i]);
        error += off * off;
      }
    }
  }
};

void encode_q6_k(std::span<const float> x, Out out) {
  std::array<float, 16> simple{}, searched{};
  for (size_t k = 0; k < 16; ++k) {
    simple[k] = largest_magnitude(x.subspan(16 * k, 16)) / -32;
    searched[k] = search_scale(x.subspan(16 * k, 16), -32, 31);
  }
  BlockQ6K block(x, simple);
  if (const BlockQ6K other(x, searched); other.error < block.error) block = other;
  put_half(out + 208, block.d);
  for (size_t k = 0; k < 16; ++k) {
    or_byte(out + 192 + k, block.scales[k] & 255);
    for (size_t i = 16 * k; i < 16 * k + 16; ++i) {
      const int v = block.q[i] + 32;
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

bool encodable(TensorType type) { return encoder(type) != nullptr; }

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
