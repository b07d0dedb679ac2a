// The searched scales against the plain ones, which keep the largest value of a block.
#include "engine/gguf/encode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include "engine/gguf/codec.h"

namespace lapidary::gguf {
namespace {

float half(float value) { return half_to_float(float_to_half(value)); }

float quantised(float x, float scale, float low, float high) {
  return scale == 0 ? 0 : std::clamp(std::round(x / scale), low, high) * scale;
}

float largest(std::span<const float> x) {
  return *std::ranges::max_element(x, {}, [](float v) { return std::fabs(v); });
}

// What a block becomes with the plain scales.
std::vector<float> plain_symmetric(std::span<const float> x, float levels) {
  std::vector<float> out;
  const float d = half(largest(x) / -levels);
  for (const float v : x) out.push_back(quantised(v, d, -levels, levels - 1));
  return out;
}
std::vector<float> plain_k45(std::span<const float> x, float levels) {
  std::array<float, 8> scales{}, mins{};
  for (size_t g = 0; g < 8; ++g) {
    const auto [low, high] = std::ranges::minmax(x.subspan(32 * g, 32));
    mins[g] = std::max(0.0f, -low);
    scales[g] = (std::max(high, 0.0f) + mins[g]) / levels;
  }
  const float d = half(std::ranges::max(scales) / 63), dmin = half(std::ranges::max(mins) / 63);
  std::vector<float> out;
  for (size_t i = 0; i < 256; ++i) {
    const float s = quantised(scales[i / 32], d, 0, 63), m = quantised(mins[i / 32], dmin, 0, 63);
    out.push_back(quantised(x[i] + m, s, 0, levels) - m);
  }
  return out;
}
std::vector<float> plain_q6_k(std::span<const float> x) {
  std::array<float, 16> scales{};
  for (size_t k = 0; k < 16; ++k) scales[k] = largest(x.subspan(16 * k, 16)) / -32;
  const float d = half(std::fabs(largest(scales)) / 127);
  std::vector<float> out;
  for (size_t i = 0; i < 256; ++i)
    out.push_back(quantised(x[i], quantised(scales[i / 16], d, -127, 127), -32, 31));
  return out;
}
std::vector<float> plain(TensorType type, std::span<const float> x) {
  switch (type) {
    case TensorType::kQ4_0:
      return plain_symmetric(x, 8);
    case TensorType::kQ5_0:
      return plain_symmetric(x, 16);
    case TensorType::kQ4_K:
      return plain_k45(x, 15);
    case TensorType::kQ5_K:
      return plain_k45(x, 31);
    default:
      return plain_q6_k(x);
  }
}

double squares(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - b[i], 2);
  return sum;
}

struct Gain {
  TensorType type;
  double most;  // of the plain error, over blocks of normal values
};
class Search : public testing::TestWithParam<Gain> {};

TEST_P(Search, IsNeverWorseThanPlainScalesAndMostlyBetter) {
  const auto [type, most] = GetParam();
  const size_t block = tensor_type_info(type).block_elements;
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  double searched_sum = 0, plain_sum = 0;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<float> x(block), decoded(block);
    // Plain ones, some with a large value in them, some all of one sign, some on a grid, zeros.
    for (size_t i = 0; i < block; ++i) {
      x[i] = normal(random) * 0.05f;
      if (trial % 5 == 1 && i % 67 == 3) x[i] *= 20;
      if (trial % 5 == 2) x[i] = std::fabs(x[i]) + 0.1f;
      if (trial % 5 == 3) x[i] = std::round(x[i] * 40) / 40;
      if (trial % 5 == 4 && i / 16 % 2 == 0) x[i] = 0;
    }
    const auto bytes = encode_block_row(type, x);
    ASSERT_TRUE(bytes);
    ASSERT_TRUE(decode_block_row(type, *bytes, decoded));
    const double searched = squares(x, decoded), simple = squares(x, plain(type, x));
    ASSERT_LE(searched, simple * 1.0001 + 1e-12) << "trial " << trial;
    if (trial % 5 != 0) continue;
    searched_sum += searched;
    plain_sum += simple;
  }
  RecordProperty("of_the_plain_error", std::to_string(searched_sum / plain_sum));
  EXPECT_LE(searched_sum, most * plain_sum);
}

INSTANTIATE_TEST_SUITE_P(
    Types, Search,
    testing::Values(Gain{TensorType::kQ4_0, 0.9}, Gain{TensorType::kQ5_0, 0.95},
                    Gain{TensorType::kQ4_K, 0.9}, Gain{TensorType::kQ5_K, 0.95},
                    Gain{TensorType::kQ6_K, 0.95}),
    [](const auto& info) { return std::string(tensor_type_info(info.param.type).name); });

TEST(Encode, ValuesWithoutRoomDecodeAsInfinities) {
  const std::vector<float> x(256, 1e30f);
  std::vector<float> out(256);
  for (const TensorType type : {TensorType::kF16, TensorType::kQ8_0, TensorType::kQ4_0,
                                TensorType::kQ4_K, TensorType::kQ5_K, TensorType::kQ6_K}) {
    const auto bytes = encode_block_row(type, x);
    ASSERT_TRUE(bytes);
    ASSERT_TRUE(decode_block_row(type, *bytes, out));
    EXPECT_FALSE(std::isfinite(out[0])) << tensor_type_info(type).name;
  }
}

}  // namespace
}  // namespace lapidary::gguf
