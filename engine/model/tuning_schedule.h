// Whether the next step of tuning still fits into what a load may spend on it. A step (compiling
// some candidates, the check of one, one timed submission) cannot be stopped, so what it will
// take is predicted from the last ones of its kind: only a step that takes longer than those
// overruns the budget, and none follows it.
//
// The candidates of a product are timed in a heat: they are compiled, those of several products
// side by side as one step, then checked; a probe finds out how long a submission takes, then all
// are timed in turns. A heat that ends decides between those.
#pragma once

#include <algorithm>
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

  // side_by_side: so many candidates are compiled in the time of one.
  TuningSchedule(double budget_ms, uint32_t side_by_side, Clock clock)
      : clock_(std::move(clock)),
        start_(clock_()),
        budget_(budget_ms),
        side_by_side_(std::max(side_by_side, 1u)) {}

  // From here on checks and submissions are another product's: those of the last one say nothing.
  void begin_product();
  // Around each step. candidates: so many were compiled in it.
  void begin() { step_start_ = clock_(); }
  void end(Step step, uint32_t candidates = 1);
  // Whether a submission takes so long that one round says enough.
  void set_slow(bool slow) { slow_ = slow; }
  uint32_t rounds() const { return slow_ ? 1 : kRounds; }
  bool warms_up() const { return !slow_; }

  // Whether a heat of `count` can be compiled, and run to its end.
  bool fits_heat(uint32_t count) const;
  // How many more candidates to compile beside `chosen` ones.
  uint32_t beside(uint32_t chosen) const {
    return chosen < side_by_side_ ? side_by_side_ - chosen : 0;
  }
  // Of so many that are compiled: how many can be checked and timed; none where that is fewer than
  // `needed` (the product's usual cut, the best so far, and one beside them), which say nothing.
  uint32_t heat_size(uint32_t compiled, uint32_t needed) const;
  // Whether the rounds of so many can be timed.
  bool fits_rounds(uint32_t ready) const { return fits({.timings = timings(ready)}); }
  // Whether one more submission can be timed.
  bool fits_timing() const { return fits({.timings = 1}); }

  // Milliseconds that a heat of `needed` takes from its beginning, as far as is known.
  double heat_ms(uint32_t needed) const;
  bool within_budget(double ms) const { return ms <= budget_; }
  double budget() const { return budget_; }

 private:
  struct Work {
    uint32_t compiles = 0, checks = 0, timings = 0;
  };
  struct Taken {
    double ms = -1;  // negative: nothing was
    uint32_t turns = 1;
  };
  double predict(const Work& work) const;
  bool fits(const Work& work) const { return clock_() - start_ + predict(work) <= budget_; }
  // In which so many are compiled, one after another.
  uint32_t turns(uint32_t candidates) const {
    return (candidates + side_by_side_ - 1) / side_by_side_;
  }
  uint32_t timings(uint32_t ready) const { return ready * (rounds() + (warms_up() ? 1 : 0)); }

  Clock clock_;
  double start_;
  double budget_;
  uint32_t side_by_side_;
  double step_start_ = 0;
  bool slow_ = false;
  // By step: what the last two took.
  std::array<std::array<Taken, 2>, 3> last_{};
};

}  // namespace lapidary::model
