// Whether the next step of tuning still fits into what a load may spend on it. A step (compiling
// some candidates, the check of one, one timed submission) cannot be stopped, so what it will
// take is predicted from the last ones of its kind: only a step that takes longer than those
// overruns the budget, and none follows it.
//
// The candidates of a product are timed in heats: some are made ready (compiled side by side, as
// one step, then checked), a probe finds out how long a submission takes, then all that are ready
// are timed in turns. A heat that ends decides between those.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

namespace lapidary::model {

class TuningSchedule {
 public:
  using Clock = std::function<double()>;  // milliseconds
  enum class Step : uint8_t { kCompile, kCheck, kTime };

  // Rounds of a heat in which every candidate is timed once; a round before them warms up. Where
  // one submission takes so long that it says enough there is one round, and none to warm up.
  static constexpr uint32_t kRounds = 4;
  // Rounds after which an interrupted heat counts.
  static constexpr uint32_t kEnoughRounds = 2;
  // Submissions that find out how long one takes.
  static constexpr uint32_t kProbes = 3;

  TuningSchedule(double budget_ms, Clock clock)
      : clock_(std::move(clock)), start_(clock_()), budget_(budget_ms) {}

  // From here on steps are another product's: of the last one only what a compilation took says
  // what this one's will take.
  void begin_product();
  // Around each step. candidates: so many were compiled in it.
  void begin() { step_start_ = clock_(); }
  void end(Step step, uint32_t candidates = 1);
  // Whether a submission takes so long that one round says enough.
  void set_slow(bool slow) { slow_ = slow; }
  uint32_t rounds() const { return slow_ ? 1 : kRounds; }
  bool warms_up() const { return !slow_; }

  // How many of `left` candidates to compile at once where `ready` are there, so that all of them
  // can be checked and the heat be ended; 0: none. Fewer than `needed` in a heat (the product's
  // usual cut, the best so far, and one beside them) say nothing. Where no compilation was seen
  // yet there are no more than those.
  uint32_t batch(uint32_t ready, uint32_t needed, uint32_t left) const;
  // Whether one more, of `compiled` that are, can be checked and the heat be ended.
  bool fits_check(uint32_t ready, uint32_t needed, uint32_t compiled) const;
  // Whether the rounds of so many can be timed.
  bool fits_rounds(uint32_t ready) const { return fits({.timings = timings(ready)}); }
  // Whether one more submission can be timed.
  bool fits_timing() const { return fits({.timings = 1}); }

  // Milliseconds that a heat of `needed` takes from its beginning, as far as is known.
  double heat_ms(uint32_t needed) const;
  bool within_budget(double ms) const { return ms <= budget_; }

 private:
  struct Work {
    uint32_t compiles = 0, checks = 0, timings = 0;
  };
  struct Taken {
    double ms = -1;  // negative: nothing was
    uint32_t candidates = 1;
  };
  double predict(const Work& work) const;
  bool fits(const Work& work) const { return clock_() - start_ + predict(work) <= budget_; }
  uint32_t timings(uint32_t ready) const { return ready * (rounds() + (warms_up() ? 1 : 0)); }

  Clock clock_;
  double start_;
  double budget_;
  double step_start_ = 0;
  bool slow_ = false;
  bool compiles_are_others_ = false;
  // By step: what the last two took.
  std::array<std::array<Taken, 2>, 3> last_{};
};

}  // namespace lapidary::model
