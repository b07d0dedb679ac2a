// How many tokens a drafter should guess: as many as give most tokens a millisecond, by the share
// of guesses that came true and by measured times; none where decoding without it is as fast.
#pragma once

#include <array>
#include <cstdint>

#include "engine/model/decoder.h"

namespace lapidary::generate {

class DraftPolicy {
 public:
  // fixed: always so many guesses; 0: as many as pay.
  explicit DraftPolicy(uint32_t fixed = 0) : fixed_(fixed) {}

  // Guesses of the next round, at most model::kMaxDrafted; 0: a token without.
  uint32_t length() const;
  // A token was made without guesses, so long after the one before it, or before which there was
  // none (0).
  void note_plain(double ms);
  // A round of so many guesses took `ms`. accepted: the first of them that came true. rejected: the
  // one after them did not; else there was none, or the reply ended.
  void note_drafted(uint32_t guesses, uint32_t accepted, bool rejected, double ms);

 private:
  // Expected tokens of a round a millisecond.
  double speed(uint32_t guesses) const;
  double round_ms(uint32_t guesses) const;
  // The fastest number of guesses, at least `least`.
  uint32_t best(uint32_t least) const;
  double acceptance() const { return accepted_ / (accepted_ + rejected_); }
  void rest();

  uint32_t fixed_;
  double plain_ms_ = 0;       // of a token without guesses; 0: not known
  uint32_t plain_count_ = 0;  // times that it was made of
  std::array<double, model::kMaxDrafted + 1> round_ms_{};  // by guesses; 0: not known
  // Guesses that came true and that did not, of late: each round counts less than the next. They
  // begin with what drafters of this kind do.
  double accepted_ = 2, rejected_ = 1;
  uint32_t trial_ = 0;    // rounds to come, whatever they give
  uint32_t resting_ = 0;  // tokens to come without guesses
  uint32_t rest_ = 0;     // how many those were the last time
};

}  // namespace lapidary::generate
