// The sampler against the definitions of top_k, top_p, min_p and temperature, and stop strings over
// a stream.
#include "engine/generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "engine/generate/stop.h"

namespace lapidary::generate {
namespace {

std::vector<Candidate> ramp(size_t n) {
  std::vector<Candidate> out;
  for (size_t i = 0; i < n; ++i)
    out.push_back({static_cast<uint32_t>(100 + i), -static_cast<float>(i)});
  return out;
}

std::map<uint32_t, int> draw(const SamplingOptions& options, const std::vector<Candidate>& all,
                             int times) {
  std::map<uint32_t, int> counts;
  for (int i = 0; i < times; ++i) ++counts[draw_token(options, all, draw_bits(7, i))];
  return counts;
}

TEST(Sampler, GreedyTakesTheBest) {
  SamplingOptions options;
  options.temperature = 0;
  EXPECT_EQ(draw(options, ramp(5), 10).at(100), 10);
}

TEST(Sampler, EqualSeedsGiveEqualDraws) {
  const auto all = ramp(20);
  const auto drawn = [&](uint64_t seed, uint64_t n) {
    return draw_token({}, all, draw_bits(seed, n));
  };
  bool differs = false;
  for (uint64_t n = 0; n < 100; ++n) {
    EXPECT_EQ(drawn(42, n), drawn(42, n));
    differs |= drawn(42, n) != drawn(43, n);
  }
  EXPECT_TRUE(differs);
}

TEST(Sampler, FrequenciesFollowTheSoftmaxAtTheTemperature) {
  SamplingOptions options{.temperature = 2.0f, .top_k = 0, .top_p = 1.0f};
  const auto all = ramp(4);
  const auto counts = draw(options, all, 40000);
  double total = 0;
  for (const Candidate& c : all) total += std::exp(c.logit / 2.0);
  for (const Candidate& c : all) {
    EXPECT_NEAR(counts.at(c.id) / 40000.0, std::exp(c.logit / 2.0) / total, 0.01) << c.id;
  }
}

// Where a few of the best are said to decide, they give what all would.
TEST(Sampler, TheBestDecideWhereNoneOfTheOthersCouldCome) {
  const auto all = ramp(300);
  int decided = 0;
  for (const uint32_t top_k : {0u, 5u, 20u, 21u}) {
    for (const float top_p : {1.0f, 0.9f}) {
      for (const float min_p : {0.0f, 1e-10f, 0.1f}) {
        for (const float temperature : {0.0f, 1.0f, 50.0f}) {
          const SamplingOptions options{
              .temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p};
          const auto best = std::span(all).first(20);
          if (!candidates_decide(options, best, best.back().logit)) continue;
          ++decided;
          for (uint64_t n = 0; n < 50; ++n) {
            EXPECT_EQ(draw_token(options, best, draw_bits(3, n)),
                      draw_token(options, all, draw_bits(3, n)));
          }
        }
      }
    }
  }
  EXPECT_GT(decided, 20);
  const SamplingOptions cut{.top_k = 20, .top_p = 1};
  EXPECT_TRUE(candidates_decide(cut, std::span(all).first(20), -19));
  EXPECT_FALSE(candidates_decide(cut, std::span(all).first(19), -19));
  EXPECT_FALSE(candidates_decide({.top_k = 0, .top_p = 0.5f}, std::span(all).first(20), -19));
  EXPECT_FALSE(candidates_decide({.temperature = 0}, {}, 0));
}

TEST(Sampler, TopKTopPAndMinPCutTheTail) {
  const auto all = ramp(50);
  EXPECT_EQ(draw({.top_k = 3, .top_p = 1.0f}, all, 5000).size(), 3u);
  // e^-i normalised: 0.632, 0.233, 0.0855, ...: 0.86 is passed by the second, 0.9 by the third.
  EXPECT_EQ(draw({.top_k = 0, .top_p = 0.86f}, all, 5000).size(), 2u);
  EXPECT_EQ(draw({.top_k = 0, .top_p = 0.9f}, all, 5000).size(), 3u);
  EXPECT_EQ(draw({.top_k = 0, .top_p = 1.0f, .min_p = 0.1f}, all, 5000).size(), 3u);
  // top_p acts on what top_k left: 0.731, 0.269.
  EXPECT_EQ(draw({.top_k = 2, .top_p = 0.7f}, all, 5000).size(), 1u);
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.push("one E"), "one ");
  EXPECT_EQ(matcher.push("N"), "");
  EXPECT_EQ(matcher.push("x"), "ENx");
  EXPECT_EQ(matcher.push(" two\n"), " two");
  EXPECT_EQ(matcher.push("\nthree END"), "");
  EXPECT_EQ(matcher.matched(), "\n\n");
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopMatcher, TheEarliestStopWinsAndTheRestFlushes) {
  StopMatcher matcher({"b", "ab"});
  EXPECT_EQ(matcher.push("xxab"), "xx");
  EXPECT_EQ(matcher.matched(), "ab");
  StopMatcher open({"STOP"});
  EXPECT_EQ(open.push("ends in STO"), "ends in ");
  EXPECT_EQ(open.flush(), "STO");
  EXPECT_TRUE(open.matched().empty());
}

TEST(Options, AreReadAndBounded) {
  const auto parse = [](std::string_view text) {
    return parse_options(parse_json(text, "test").value(), GenerateOptions{}, 1000);
  };
  const auto good = parse(
      R"({"temperature":0.5,"topK":7,"seed":-1,"stop":"x","logitBias":{"3":-2.5},"num_predict":9})");
  ASSERT_TRUE(good.has_value());
  EXPECT_EQ(good->sampling.temperature, 0.5f);
  EXPECT_EQ(good->sampling.top_k, 7u);
  EXPECT_FALSE(good->sampling.seed.has_value());
  EXPECT_EQ(good->stop, std::vector<std::string>{"x"});
  EXPECT_EQ(good->sampling.logit_bias[0], std::make_pair(3u, -2.5f));
  EXPECT_EQ(good->max_tokens, 9u);
  for (const char* bad :
       {R"({"temperature":-1})", R"({"temperature":"hot"})", R"({"topP":1.5})", R"({"topK":1.5})",
        R"({"seed":0.5})", R"({"stop":[1]})", R"({"logitBias":{"1000":1}})",
        R"({"logitBias":{"x":1}})", R"({"logitBias":{"1":1e9}})", R"({"logprobs":21})", "[]"}) {
    const auto result = parse(bad);
    ASSERT_FALSE(result.has_value()) << bad;
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace lapidary::generate
