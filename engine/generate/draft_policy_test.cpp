#include "engine/generate/draft_policy.h"

#include <gtest/gtest.h>

#include "engine/generate/sampler.h"

namespace lapidary::generate {
namespace {

struct Model {
  double plain_ms = 10;
  double guess_ms = 1;   // of the drafter
  double verify_ms = 0;  // that a token more adds to the target's run
  double acceptance = 0.8;
};
struct Outcome {
  double ms = 0;
  uint32_t tokens = 0;
  uint32_t drafted_tokens = 0;  // that came of rounds with guesses
  uint32_t longest = 0;
  uint32_t last = 0;
};

// A reply of so many tokens by a policy whose guesses come true at random.
Outcome simulate(DraftPolicy& policy, const Model& model, uint32_t tokens) {
  Outcome out;
  for (uint64_t n = 0; out.tokens < tokens;) {
    const uint32_t guesses = policy.length();
    out.last = guesses;
    out.longest = std::max(out.longest, guesses);
    if (guesses == 0) {
      policy.note_plain(model.plain_ms);
      out.ms += model.plain_ms;
      ++out.tokens;
      continue;
    }
    uint32_t accepted = 0;
    const auto comes_true = [&] {
      return static_cast<double>(draw_bits(7, n++) >> 11) * 0x1p-53 < model.acceptance;
    };
    while (accepted < guesses && comes_true()) ++accepted;
    const double ms = model.plain_ms + guesses * (model.guess_ms + model.verify_ms);
    policy.note_drafted(guesses, accepted, accepted < guesses, ms);
    out.ms += ms;
    out.tokens += accepted + 1;
    out.drafted_tokens += accepted + 1;
  }
  return out;
}

TEST(DraftPolicy, GuessesNothingBeforeItKnowsHowFastDecodingIs) {
  DraftPolicy policy;
  EXPECT_EQ(policy.length(), 0u);
  policy.note_plain(0);  // the first token of a reply has no time
  for (int i = 0; i < 3; ++i) policy.note_plain(10);
  EXPECT_EQ(policy.length(), 0u);
  policy.note_plain(10);
  EXPECT_GT(policy.length(), 0u);
}

TEST(DraftPolicy, GuessesManyThatComeTrueAndCostLittle) {
  DraftPolicy policy;
  const Outcome out = simulate(policy, {.guess_ms = 0.3, .acceptance = 0.97}, 2000);
  EXPECT_EQ(out.longest, model::kMaxDrafted);
  EXPECT_GE(out.last, 6u);
  EXPECT_LT(out.ms, 0.3 * 10 * out.tokens);
}

TEST(DraftPolicy, GuessesFewWhereFewComeTrue) {
  DraftPolicy policy;
  const Outcome out = simulate(policy, {.guess_ms = 1.2, .acceptance = 0.5}, 2000);
  // Expected tokens a millisecond are highest with 2: 1.75 / 12.4 (1: 1.5 / 11.2, 3: 1.875 / 13.6).
  EXPECT_GE(out.last, 1u);
  EXPECT_LE(out.last, 3u);
  EXPECT_LT(out.ms, 10.0 * out.tokens * 0.85);
}

TEST(DraftPolicy, IsOffWhereGuessesDoNotPay) {
  for (const Model& model : {Model{.guess_ms = 8, .verify_ms = 8, .acceptance = 0.9},
                             Model{.guess_ms = 1, .acceptance = 0.02}}) {
    DraftPolicy policy;
    const Outcome out = simulate(policy, model, 4000);
    // It still tries now and then, and less and less often.
    EXPECT_LT(out.ms, 10.0 * out.tokens * 1.05);
    EXPECT_LT(out.drafted_tokens, 300u);
    EXPECT_GT(out.drafted_tokens, 0u);
  }
}

TEST(DraftPolicy, ComesBackWhenGuessesPayAgain) {
  DraftPolicy policy;
  simulate(policy, {.guess_ms = 1, .acceptance = 0.02}, 1000);
  const Outcome out = simulate(policy, {.guess_ms = 0.5, .acceptance = 0.95}, 6000);
  EXPECT_GT(out.last, 0u);
  EXPECT_GT(out.drafted_tokens, 3000u);
}

TEST(DraftPolicy, GuessesAsManyAsItIsTold) {
  DraftPolicy policy(3);
  EXPECT_EQ(policy.length(), 3u);
  for (int i = 0; i < 20; ++i) policy.note_drafted(3, 0, true, 1000);
  EXPECT_EQ(policy.length(), 3u);
}

}  // namespace
}  // namespace lapidary::generate
