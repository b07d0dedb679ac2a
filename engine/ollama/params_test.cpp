// The params layer: what a model's maker may set, and what is refused.
#include "engine/ollama/params.h"

#include <gtest/gtest.h>

namespace lapidary::ollama {
namespace {

TEST(Params, ReadsGemmasDefaults) {
  const auto params =
      parse_params(R"({"stop":["<turn|>"],"temperature":1,"top_k":64,"top_p":0.95})");
  ASSERT_TRUE(params) << params.error().message;
  EXPECT_EQ(params->temperature, 1.0);
  EXPECT_EQ(params->top_k, 64u);
  EXPECT_EQ(params->top_p, 0.95);
  EXPECT_FALSE(params->min_p);
  EXPECT_EQ(params->stop, std::vector<std::string>{"<turn|>"});
}

TEST(Params, EveryKeyUnderItsOptionName) {
  const auto params = parse_params(
      R"({"temperature":0,"top_k":-1,"top_p":1,"min_p":0.05,"repeat_penalty":1.1,"repeat_last_n":-1,)"
      R"("presence_penalty":-0.5,"frequency_penalty":0.25,"seed":4294967295,"num_predict":128,"num_ctx":4096.0,)"
      R"("stop":"END","num_gpu":99,"mirostat":0})");
  ASSERT_TRUE(params) << params.error().message;
  EXPECT_EQ(
      dump_json(to_json(*params)),
      R"({"temperature":0.0,"topK":0,"topP":1.0,"minP":0.05,"repeatPenalty":1.1,"repeatLastN":-1,)"
      R"("presencePenalty":-0.5,"frequencyPenalty":0.25,"seed":4294967295,"maxTokens":128,)"
      R"("contextLength":4096,"stop":["END"]})");
  EXPECT_EQ(params->ignored, (std::vector<std::string>{"num_gpu", "mirostat"}));
}

TEST(Params, LeavesOutWhatIsUpToUs) {
  const auto params =
      parse_params(R"({"seed":-1,"num_predict":-2,"num_ctx":0,"top_p":null,"stop":[""]})");
  ASSERT_TRUE(params) << params.error().message;
  EXPECT_EQ(dump_json(to_json(*params)), "{}");
}

TEST(Params, Refusals) {
  struct Case {
    std::string_view text, message;
  };
  constexpr Case kCases[] = {
      {"[]", "not a JSON object"},
      {"x", "not valid JSON"},
      {R"({"temperature":"hot"})", "'temperature' is not a number"},
      {R"({"temperature":-0.1})", "'temperature' is -0.1, outside 0 to"},
      {R"({"temperature":1e999})", "params"},
      {R"({"top_k":1.5})", "'top_k' is not a whole number"},
      {R"({"top_k":1e18})", "'top_k' is"},
      {R"({"top_p":1.01})", "'top_p' is 1.01, outside 0 to 1"},
      {R"({"min_p":true})", "'min_p' is not a number"},
      {R"({"repeat_penalty":0})", "'repeat_penalty' is 0"},
      {R"({"repeat_last_n":-2})", "'repeat_last_n' is -2"},
      {R"({"seed":4294967296})", "'seed' is"},
      {R"({"num_ctx":-5})", "'num_ctx' is -5"},
      {R"({"stop":7})", "'stop' is neither"},
      {R"({"stop":[7]})", "'stop' holds something"},
  };
  for (const Case& c : kCases) {
    const auto params = parse_params(c.text);
    ASSERT_FALSE(params) << c.text;
    EXPECT_EQ(params.error().code, ErrorCode::kInvalidFormat);
    EXPECT_NE(params.error().message.find(c.message), std::string::npos) << params.error().message;
  }
}

}  // namespace
}  // namespace lapidary::ollama
