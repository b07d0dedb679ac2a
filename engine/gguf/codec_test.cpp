#include "engine/gguf/codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/gguf/encode.h"
#include "engine/reference/fixture.h"

namespace lapidary::gguf {
namespace {

std::vector<std::byte> from_hex(const std::string& hex) {
  std::vector<std::byte> bytes;
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(digit(hex[i]) << 4 | digit(hex[i + 1])));
  }
  return bytes;
}

TEST(TensorTypes, TableIsSortedAndNamed) {
  uint32_t previous = 0;
  for (const TensorTypeInfo& info : kTensorTypes) {
    const auto id = static_cast<uint32_t>(info.type);
    EXPECT_TRUE(id == 0 || id > previous) << info.name;
    previous = id;
    EXPECT_EQ(tensor_type_info(id), &info);
    EXPECT_EQ(tensor_type_name(id), info.name);
    EXPECT_GT(info.block_bytes, 0u);
    // A type is decodable exactly if the codec decodes a block of it.
    std::vector<std::byte> block(info.block_bytes);
    std::vector<float> out(info.block_elements);
    EXPECT_EQ(decode_block_row(info.type, block, out).has_value(), info.decodable) << info.name;
  }
  EXPECT_EQ(tensor_type_info(4), nullptr);
  EXPECT_EQ(tensor_type_info(43), nullptr);
  EXPECT_EQ(tensor_type_info(0xFFFFFFFF), nullptr);
  EXPECT_EQ(tensor_type_name(99), "type 99");
}

TEST(TensorTypes, Bytes) {
  EXPECT_EQ(tensor_bytes(TensorType::kQ4_K, 512).value(), 288u);
  EXPECT_EQ(tensor_bytes(TensorType::kF32, 0).value(), 0u);
  EXPECT_EQ(tensor_bytes(TensorType::kQ4_K, 257).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(tensor_bytes(TensorType::kF32, uint64_t{1} << 62).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(tensor_bytes(5, 32).error().code, ErrorCode::kUnsupported);
}

// Blocks and values that ggml's own dequantisation produced: equal to the last bit.
TEST(Codec, EqualsGgmlVectors) {
  const Json json = reference::read_fixture_json("dequant.json.gz");
  size_t formats = 0;
  for (const auto& [name, vector] : json.items()) {
    const auto id = vector["type"].get<uint32_t>();
    const TensorTypeInfo* info = tensor_type_info(id);
    ASSERT_NE(info, nullptr) << name;
    EXPECT_EQ(info->block_elements, vector["block"].get<uint32_t>()) << name;
    EXPECT_EQ(info->block_bytes, vector["bytes"].get<uint32_t>()) << name;
    const std::vector<std::byte> data = from_hex(vector["data"].get<std::string>());
    std::vector<float> out(vector["f32"].size());
    const Status status = decode_block_row(info->type, data, out);
    ASSERT_TRUE(status.has_value()) << name << ": " << status.error().message;
    for (size_t i = 0; i < out.size(); ++i) {
      // Nine significant decimals name one float.
      const auto expected = static_cast<float>(vector["f32"][i].get<double>());
      ASSERT_EQ(std::bit_cast<uint32_t>(out[i]) & (expected == 0 ? 0x7FFFFFFFu : 0xFFFFFFFFu),
                std::bit_cast<uint32_t>(expected) & (expected == 0 ? 0x7FFFFFFFu : 0xFFFFFFFFu))
          << name << " element " << i << ": " << out[i] << " is not " << expected;
    }
    ++formats;
  }
  EXPECT_EQ(formats, 15u);
}

TEST(Codec, Q8K) {
  std::vector<std::byte> block(292);
  const float d = 0.25f;
  std::memcpy(block.data(), &d, sizeof d);
  for (size_t i = 0; i < 256; ++i) block[4 + i] = static_cast<std::byte>(i);
  std::vector<float> out(256);
  ASSERT_TRUE(decode_block_row(TensorType::kQ8_K, block, out).has_value());
  EXPECT_EQ(out[127], 31.75f);
  EXPECT_EQ(out[128], -32.0f);
  EXPECT_EQ(out[255], -0.25f);
}

// The exponents whose scale 2^(e-128) is subnormal, and both ends.
TEST(Codec, Mxfp4Exponents) {
  for (const int e : {0, 1, 2, 127, 254, 255}) {
    std::vector<std::byte> block(17, std::byte{0x92});  // low nibble 2: value 2, high 9: value -1
    block[0] = static_cast<std::byte>(e);
    std::vector<float> out(32);
    ASSERT_TRUE(decode_block_row(TensorType::kMXFP4, block, out).has_value());
    EXPECT_EQ(out[0], static_cast<float>(std::ldexp(2.0, e - 128))) << e;
    EXPECT_EQ(out[16], static_cast<float>(std::ldexp(-1.0, e - 128))) << e;
  }
}

TEST(Codec, RefusesSizesThatDoNotFit) {
  std::vector<std::byte> block(36);
  std::vector<float> out(32);
  EXPECT_EQ(decode_block_row(TensorType::kQ4_0, Bytes(block).first(17), out).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(decode_block_row(TensorType::kQ4_0, Bytes(block).first(19), out).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(decode_block_row(TensorType::kQ4_0, Bytes(block).first(18), std::span(out).first(31))
                .error()
                .code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(
      decode_block_row(static_cast<TensorType>(1000), block, out).error().message,
      "tensor type type 1000 cannot be decoded here; use a file quantised to a supported type");
  EXPECT_TRUE(decode_block_row(TensorType::kQ4_0, {}, {}).has_value());
}

struct ErrorBound {
  TensorType type;
  double relative_rms;  // rms of the error over rms of standard normal values
};

class Encode : public testing::TestWithParam<ErrorBound> {};

TEST_P(Encode, DecodesWithinItsError) {
  const auto [type, bound] = GetParam();
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(256 * 16), decoded(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = normal(random) * (i / 256 % 2 ? 0.02f : 1.0f);  // blocks of different magnitude
  }
  const auto bytes = encode_block_row(type, values);
  ASSERT_TRUE(bytes.has_value());
  ASSERT_TRUE(decode_block_row(type, *bytes, decoded).has_value());
  double error = 0, power = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(decoded[i] - values[i], 2);
    power += std::pow(values[i], 2);
  }
  const double rms = std::sqrt(error / power);
  EXPECT_LE(rms, bound);
  EXPECT_GE(rms,
            bound / 3);  // the bound is tight: a format that keeps more bits than it has is wrong
  // Zeros stay zeros.
  std::fill(values.begin(), values.end(), 0.0f);
  const auto zero_bytes = encode_block_row(type, values);
  ASSERT_TRUE(zero_bytes.has_value());
  ASSERT_TRUE(decode_block_row(type, *zero_bytes, decoded).has_value());
  for (const float v : decoded) ASSERT_EQ(v, 0.0f);
}

INSTANTIATE_TEST_SUITE_P(
    Types, Encode,
    testing::Values(ErrorBound{TensorType::kF32, 0}, ErrorBound{TensorType::kF16, 4e-4},
                    ErrorBound{TensorType::kBF16, 3e-3}, ErrorBound{TensorType::kQ8_0, 0.01},
                    ErrorBound{TensorType::kQ4_0, 0.12}, ErrorBound{TensorType::kQ4_1, 0.12},
                    ErrorBound{TensorType::kQ5_0, 0.06}, ErrorBound{TensorType::kQ5_1, 0.06},
                    ErrorBound{TensorType::kQ4_K, 0.12}, ErrorBound{TensorType::kQ5_K, 0.06},
                    ErrorBound{TensorType::kQ6_K, 0.03}),
    [](const auto& info) { return std::string(tensor_type_info(info.param.type).name); });

TEST(EncodeErrors, RefusesOtherTypesAndPartBlocks) {
  const std::vector<float> values(48);
  EXPECT_EQ(encode_block_row(TensorType::kIQ4_NL, values).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(encode_block_row(TensorType::kQ8_0, values).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace lapidary::gguf
