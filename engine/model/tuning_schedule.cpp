#include "engine/model/tuning_schedule.h"

#include <algorithm>
#include <utility>

namespace lapidary::model {
namespace {

// Milliseconds that a step takes at least, for as long as none of its kind has been seen.
constexpr double kLeastCheck = 1;
constexpr double kLeastTime = 4;

}  // namespace

void TuningSchedule::begin_product() {
  slow_ = false;
  compiles_are_others_ = true;
  for (const Step step : {Step::kCheck, Step::kTime}) last_[static_cast<size_t>(step)] = {};
}

void TuningSchedule::end(Step step, uint32_t candidates) {
  auto& last = last_[static_cast<size_t>(step)];
  if (step == Step::kCompile && std::exchange(compiles_are_others_, false)) last[0] = {};
  last = {Taken{.ms = clock_() - step_start_, .candidates = candidates}, last[0]};
}

// More candidates at once take longer in proportion at worst: where each has a core of its own they
// hardly do. A submission that is timed takes no less than a check, which computes the product
// once.
double TuningSchedule::predict(const Work& work) const {
  const auto longest = [&](Step step, double least, uint32_t candidates = 1) {
    double most = -1;
    for (const Taken& taken : last_[static_cast<size_t>(step)])
      most = std::max(most, taken.ms * std::max(1.0, 1.0 * candidates / taken.candidates));
    return most < 0 ? least : most;
  };
  const double check = longest(Step::kCheck, kLeastCheck);
  return (work.compiles > 0 ? longest(Step::kCompile, 0, work.compiles) : 0) + work.checks * check +
         work.timings * longest(Step::kTime, std::max(kLeastTime, check));
}

uint32_t TuningSchedule::batch(uint32_t ready, uint32_t needed, uint32_t left) const {
  const uint32_t least = std::min(left, ready < needed ? needed - ready : 1);
  const bool unknown = last_[static_cast<size_t>(Step::kCompile)][0].ms < 0;
  for (uint32_t count = unknown ? least : left; count > 0 && count >= least; --count) {
    if (fits({.compiles = count, .checks = count, .timings = kProbes + timings(ready + count)}))
      return count;
  }
  return 0;
}

bool TuningSchedule::fits_check(uint32_t ready, uint32_t needed, uint32_t compiled) const {
  const uint32_t then = std::max(ready + 1, needed);
  const uint32_t missing = then - ready;
  return fits({.compiles = missing - std::min(missing, compiled),
               .checks = missing,
               .timings = kProbes + timings(then)});
}

double TuningSchedule::heat_ms(uint32_t needed) const {
  return predict({.compiles = needed, .checks = needed, .timings = kProbes + timings(needed)});
}

}  // namespace lapidary::model
