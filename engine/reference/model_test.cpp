// The reference model against other implementations: numpy in float64 (tiny-*), HF transformers and
// llama.cpp (nano).
#include "engine/reference/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/reference/fixture.h"

namespace lapidary::reference {
namespace {

using Ids = std::vector<uint32_t>;

// Token ids of a JSON list; -1 is a soft token.
Ids ids_of(const Json& list) {
  Ids ids;
  for (const Json& id : list) ids.push_back(static_cast<uint32_t>(id.get<int64_t>()));
  return ids;
}

struct Loaded {
  std::vector<std::byte> file;
  ReferenceModel model;
};

ReferenceModel load_model(Bytes file) {
  Result<gguf::Header> header = gguf::parse_header(file);
  EXPECT_TRUE(header.has_value()) << header.error().message;
  Result<ReferenceModel> model = ReferenceModel::load(*header, file);
  EXPECT_TRUE(model.has_value()) << model.error().message;
  return std::move(*model);
}

const ReferenceModel& nano() {
  static const ReferenceModel model = load_model(read_fixture("nano/nano-f16.gguf.gz"));
  return model;
}

std::vector<float> run(const ReferenceModel& model, std::span<const uint32_t> ids,
                       const ForwardOptions& options = {}) {
  Result<std::vector<float>> logits = model.forward(ids, options);
  EXPECT_TRUE(logits.has_value()) << logits.error().message;
  return std::move(*logits);
}

double max_abs_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::fabs(double{a[i]} - double{b[i]});
    worst = difference <= worst ? worst : difference;  // a NaN is the worst
  }
  return worst;
}

class FinalNorm : public Observer {
 public:
  void tensor(std::string_view name, std::span<const float> values) override {
    if (name == "final_norm") hidden.assign(values.begin(), values.end());
  }
  std::vector<float> hidden;
};

class TinyTest : public testing::TestWithParam<const char*> {
 protected:
  const std::string name = GetParam();
  const Json manifest = read_fixture_json("gemma4/manifest.json")[name];
  const ReferenceModel model = load_model(read_fixture(cat("gemma4/", name, ".gguf")));
};

TEST_P(TinyTest, LogitsAndHiddenStates) {
  const Ids ids = ids_of(manifest["ids"]);
  FinalNorm final_norm;
  const std::vector<float> logits = run(model, ids, {.observer = &final_norm});
  EXPECT_LT(max_abs_difference(logits, read_fixture_floats(cat("gemma4/", name, ".logits.f32"))),
            1e-4);
  EXPECT_LT(max_abs_difference(final_norm.hidden,
                               read_fixture_floats(cat("gemma4/", name, ".hidden.f32"))),
            1e-4);
}

TEST_P(TinyTest, SoftRows) {
  const Ids ids = ids_of(manifest["soft"]["ids"]);
  const std::vector<float> rows = read_fixture_floats("gemma4/soft_rows.f32");
  EXPECT_LT(max_abs_difference(run(model, ids, {.soft_rows = rows}),
                               read_fixture_floats(cat("gemma4/", name, ".soft_causal.f32"))),
            1e-4);
  if (!model.config().image_bidirectional) return;
  const auto first = std::ranges::find(ids, kSoftToken);
  const Image image{.position = static_cast<uint32_t>(first - ids.begin()),
                    .tokens = static_cast<uint32_t>(std::ranges::count(ids, kSoftToken))};
  EXPECT_LT(max_abs_difference(run(model, ids, {.soft_rows = rows, .images = {&image, 1}}),
                               read_fixture_floats(cat("gemma4/", name, ".soft_bidi.f32"))),
            1e-4);
}

INSTANTIATE_TEST_SUITE_P(, TinyTest, testing::Values("tiny-e", "tiny-dense", "tiny-moe"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(ReferenceModel, TinyMmText) {
  const ReferenceModel model = load_model(read_fixture("tiny-mm/tiny-mm-text-f16.gguf.gz"));
  const Json json = read_fixture_json("tiny-mm/logits_hf.json");
  EXPECT_LT(max_abs_difference(run(model, ids_of(json["ids"])),
                               read_fixture_floats("tiny-mm/logits_hf.bin")),
            1e-3);
}

// All nine prompts of logits_hf, at all their stored positions; the longest goes round the window
// six times.
TEST(ReferenceModel, NanoLogits) {
  const Json index = read_fixture_json("nano/logits_hf.json");
  const std::vector<float> expected = read_fixture_floats("nano/logits_hf.bin.gz");
  const Json prompts = read_fixture_json("nano/prompts.json");
  size_t compared = 0;
  for (const Json& prompt : prompts) {
    const std::string name = prompt["name"].get<std::string>();
    if (!index.contains(name)) continue;
    const Json& entry = index[name];
    const Ids rows = ids_of(entry["positions"]);
    const std::vector<float> logits = run(nano(), ids_of(prompt["ids"]), {.logit_rows = rows});
    const size_t offset = entry["offset"].get<size_t>() / sizeof(float);
    const double worst =
        max_abs_difference(logits, std::span(expected).subspan(offset, logits.size()));
    EXPECT_LT(worst, name == "long" ? 1e-3 : 1e-4) << name;
    testing::Test::RecordProperty(name, cat(worst));
    ++compared;
  }
  EXPECT_EQ(compared, index.size());
}

class Collector : public Observer {
 public:
  void tensor(std::string_view name, std::span<const float> values) override {
    seen[std::string(name)].assign(values.begin(), values.end());
  }
  std::map<std::string, std::vector<float>> seen;
};

TEST(ReferenceModel, NanoIntermediates) {
  const Json index = read_fixture_json("nano/hidden_capital.json");
  const std::vector<float> data = read_fixture_floats("nano/hidden_capital.bin.gz");
  const Json prompts = read_fixture_json("nano/prompts.json");
  ASSERT_EQ(prompts[0]["name"], "capital");
  Collector collector;
  run(nano(), ids_of(prompts[0]["ids"]), {.observer = &collector});
  ASSERT_EQ(index.size(), 87u);
  double worst = 0;
  for (const auto& [name, entry] : index.items()) {
    ASSERT_TRUE(collector.seen.contains(name)) << name;
    const std::vector<float>& found = collector.seen[name];
    size_t size = 1;
    for (const Json& dim : entry["shape"]) size *= dim.get<size_t>();
    ASSERT_EQ(found.size(), size) << name;
    const auto expected =
        std::span(data).subspan(entry["offset"].get<size_t>() / sizeof(float), size);
    double largest = 0;
    for (const float v : expected) largest = std::max(largest, std::fabs(double{v}));
    const double relative = max_abs_difference(found, expected) / largest;
    EXPECT_LT(relative, 1e-4) << name;
    worst = std::max(worst, relative);
  }
  RecordProperty("worst_relative", cat(worst));
}

TEST(ReferenceModel, HalfPrecisionCacheStaysClose) {
  const Ids ids = ids_of(read_fixture_json("nano/prompts.json")[0]["ids"]);
  const std::vector<float> exact = run(nano(), ids);
  const std::vector<float> rounded = run(nano(), ids, {.kv_f16 = true});
  const double difference = max_abs_difference(exact, rounded);
  EXPECT_GT(difference, 0);
  EXPECT_LT(difference, 2e-2);
}

// The same numbers whether rows are decoded at load or as they are used: of a quantised file, of
// one with experts.
TEST(ReferenceModel, DecodesByRow) {
  const std::vector<std::byte> files[] = {
      read_fixture("models/blobs/"
                   "sha256-5a3f7d0cb69d6eb360230082189a797bb41547f35057d88270de2660ab83059c"),
      read_fixture("gemma4/tiny-moe.gguf")};
  for (const std::vector<std::byte>& file : files) {
    const Result<gguf::Header> header = gguf::parse_header(file);
    ASSERT_TRUE(header.has_value());
    const auto by_row = ReferenceModel::load(*header, file, Decoding::kByRow);
    ASSERT_TRUE(by_row.has_value()) << by_row.error().message;
    const Ids ids = {2, 100, 200};
    EXPECT_EQ(run(*by_row, ids), run(load_model(file), ids));
  }
}

// Relative positions alone matter: a shifted prompt gives the same logits.
TEST(ReferenceModel, FirstPosition) {
  const Ids ids = ids_of(read_fixture_json("nano/prompts.json")[0]["ids"]);
  EXPECT_LT(max_abs_difference(run(nano(), ids), run(nano(), ids, {.first_position = 500})), 1e-3);
}

TEST(ReferenceModel, RefusesBadInput) {
  const ReferenceModel model = load_model(read_fixture("gemma4/tiny-e.gguf"));
  const auto code = [&](Ids ids, ForwardOptions options = {}) {
    const auto result = model.forward(ids, options);
    return result ? ErrorCode::kOk : result.error().code;
  };
  const Ids row = {5};
  EXPECT_EQ(code({}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({2, 295}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({2, kSoftToken}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({2, 3}, {.logit_rows = row}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({2, 294}), ErrorCode::kOk);
}

}  // namespace
}  // namespace lapidary::reference
