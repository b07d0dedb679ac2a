// The reference model on quantised files, against llama.cpp's numbers for the same weights
// dequantised to f32.
#include "engine/reference/quantize.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/reference/fixture.h"
#include "engine/reference/model.h"

namespace lapidary::reference {
namespace {

// The embedded model: nano in Q4_K_M.
constexpr std::string_view kQ4KM =
    "models/blobs/sha256-5a3f7d0cb69d6eb360230082189a797bb41547f35057d88270de2660ab83059c";

// llama.cpp's GELU is an f16 table, which costs up to 8e-3 on logits; 2e-2 leaves room.
void expect_top20(Bytes file, std::string_view fixture) {
  const Result<gguf::Header> header = gguf::parse_header(file);
  ASSERT_TRUE(header.has_value()) << header.error().message;
  const Result<ReferenceModel> model = ReferenceModel::load(*header, file);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const Json prompts = read_fixture_json("nano/prompts.json");
  const Json expected = read_fixture_json(fixture)["top"];
  ASSERT_EQ(prompts.size(), expected.size());
  double worst = 0;
  size_t rows = 0;
  for (size_t p = 0; p < prompts.size(); ++p) {
    ASSERT_EQ(prompts[p]["name"], expected[p]["name"]);
    std::vector<uint32_t> ids = prompts[p]["ids"].get<std::vector<uint32_t>>();
    // A prefix is exact under a causal mask, and keeps the sanitized run short.
    if (ids.size() > 80) ids.resize(80);
    const Result<std::vector<float>> logits = model->forward(ids);
    ASSERT_TRUE(logits.has_value()) << logits.error().message;
    for (const Json& row : expected[p]["top"]) {
      const size_t position = row["pos"].get<size_t>();
      if (position >= ids.size()) continue;
      ++rows;
      for (size_t i = 0; i < row["ids"].size(); ++i) {
        const float found =
            (*logits)[position * model->config().vocab + row["ids"][i].get<size_t>()];
        const double difference = std::fabs(double{found} - row["logits"][i].get<double>());
        worst = difference <= worst ? worst : difference;
      }
    }
  }
  EXPECT_GT(rows, 300u);
  EXPECT_LT(worst, 2e-2) << fixture;
  testing::Test::RecordProperty("worst", cat(worst));
  testing::Test::RecordProperty("rows", static_cast<int>(rows));
}

std::vector<std::byte> quantized(gguf::TensorType type) {
  const std::vector<std::byte> f16 = read_fixture("nano/nano-f16.gguf.gz");
  const Result<gguf::Header> header = gguf::parse_header(f16);
  EXPECT_TRUE(header.has_value());
  Result<std::vector<std::byte>> file = quantize_model(*header, f16, type);
  EXPECT_TRUE(file.has_value()) << file.error().message;
  return std::move(*file);
}

TEST(Quantize, Q8_0MatchesLlama) {
  expect_top20(quantized(gguf::TensorType::kQ8_0), "nano/top20_dequant-f32-q8_0.json.gz");
}

TEST(Quantize, Q4_0MatchesLlama) {
  expect_top20(quantized(gguf::TensorType::kQ4_0), "nano/top20_dequant-f32-q4_0.json.gz");
}

TEST(Quantize, Q4_K_MMatchesLlama) {
  expect_top20(read_fixture(kQ4KM), "nano/top20_dequant-f32-q4_k_m.json.gz");
}

TEST(Quantize, RefusesOtherTypes) {
  const std::vector<std::byte> file = read_fixture("gemma4/tiny-e.gguf");
  const Result<gguf::Header> header = gguf::parse_header(file);
  ASSERT_TRUE(header.has_value());
  const auto result = quantize_model(*header, file, gguf::TensorType::kQ4_K);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace lapidary::reference
