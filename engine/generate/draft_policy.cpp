#include "engine/generate/draft_policy.h"

#include <algorithm>
#include <cmath>

namespace lapidary::generate {
namespace {

// Tokens whose times tell how fast decoding is without guesses.
constexpr uint32_t kPlainTimes = 4;
// Rounds that are made before it is decided whether guesses pay.
constexpr uint32_t kTrial = 6;
// Tokens without guesses after they did not pay: twice as many each time.
constexpr uint32_t kRest = 64;
constexpr uint32_t kMostRest = 2048;
// How much faster guessing must be.
constexpr double kGain = 1.03;
// Weight of a new time, and of what was counted before the last round.
constexpr double kNewTime = 0.25;
constexpr double kMemory = 0.97;
// What a guess adds to a round until that is measured, as a share of a token's time.
constexpr double kGuessShare = 0.15;

void mix(double& mean, double value) {
  mean = mean == 0 ? value : mean + kNewTime * (value - mean);
}

}  // namespace

uint32_t DraftPolicy::length() const {
  if (fixed_ > 0) return fixed_;
  if (plain_count_ < kPlainTimes || resting_ > 0) return 0;
  if (trial_ > 0) return best(1);
  return best(0);
}

uint32_t DraftPolicy::best(uint32_t least) const {
  uint32_t best = least;
  double most = least == 0 ? kGain / plain_ms_ : 0;
  for (uint32_t guesses = 1; guesses <= model::kMaxDrafted; ++guesses) {
    if (speed(guesses) <= most) continue;
    most = speed(guesses);
    best = guesses;
  }
  return best;
}

// Of guesses that come true with probability a each, 1 + a + a^2 + … tokens come of a round.
double DraftPolicy::speed(uint32_t guesses) const {
  double tokens = 1;
  double all_true = 1;
  for (uint32_t i = 0; i < guesses; ++i) tokens += all_true *= acceptance();
  return tokens / round_ms(guesses);
}

// Of rounds that were not made yet: on the line from a token without guesses through the nearest
// that was.
double DraftPolicy::round_ms(uint32_t guesses) const {
  if (round_ms_[guesses] > 0) return round_ms_[guesses];
  for (uint32_t away = 1; away <= model::kMaxDrafted; ++away) {
    for (const int64_t near : {int64_t{guesses} + away, int64_t{guesses} - away}) {
      if (near < 1 || near > model::kMaxDrafted || round_ms_[static_cast<size_t>(near)] == 0)
        continue;
      const double more = (round_ms_[static_cast<size_t>(near)] - plain_ms_) / double(near);
      return plain_ms_ + std::max(more, 0.0) * guesses;
    }
  }
  return plain_ms_ * (1 + kGuessShare * guesses);
}

void DraftPolicy::rest() {
  rest_ = std::clamp(2 * rest_, kRest, kMostRest);
  resting_ = rest_;
}

void DraftPolicy::note_plain(double ms) {
  if (ms > 0) {
    mix(plain_ms_, ms);
    if (plain_count_ < kPlainTimes) {
      ++plain_count_;
      if (plain_count_ == kPlainTimes) trial_ = kTrial;
    }
  }
  if (resting_ > 0) {
    --resting_;
    if (resting_ == 0) trial_ = kTrial;
  }
}

void DraftPolicy::note_drafted(uint32_t guesses, uint32_t accepted, bool rejected, double ms) {
  if (fixed_ > 0 || guesses == 0) return;
  mix(round_ms_[guesses], ms);
  accepted_ = accepted_ * kMemory + accepted;
  rejected_ = rejected_ * kMemory + (rejected ? 1 : 0);
  if (trial_ > 0) --trial_;
  if (trial_ > 0) return;
  if (best(0) == 0) {
    rest();
  } else {
    rest_ = 0;
  }
}

}  // namespace lapidary::generate
