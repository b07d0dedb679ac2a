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
  for (const Step step : {Step::kCheck, Step::kTime}) last_[static_cast<size_t>(step)] = {};
}

void TuningSchedule::end(Step step, uint32_t candidates) {
  auto& last = last_[static_cast<size_t>(step)];
  last = {Taken{.ms = clock_() - step_start_, .turns = turns(candidates)}, last[0]};
}

// A submission that is timed takes no less than a check, which computes the product once.
double TuningSchedule::predict(const Work& work) const {
  const auto longest = [&](Step step, double least, uint32_t turns = 1) {
    double most = -1;
    for (const Taken& taken : last_[static_cast<size_t>(step)])
      most = std::max(most, taken.ms * std::max(1.0, 1.0 * turns / taken.turns));
    return most < 0 ? least : most;
  };
  const double check = longest(Step::kCheck, kLeastCheck);
  const double compiling = work.compiles > 0 ? longest(Step::kCompile, 0, turns(work.compiles)) : 0;
  return compiling + work.checks * check +
         work.timings * longest(Step::kTime, std::max(kLeastTime, check));
}

bool TuningSchedule::fits_heat(uint32_t count) const {
  return fits({.compiles = count, .checks = count, .timings = kProbes + timings(count)});
}

uint32_t TuningSchedule::heat_size(uint32_t compiled, uint32_t needed) const {
  for (uint32_t count = compiled; count >= needed && count > 0; --count) {
    if (fits({.checks = count, .timings = kProbes + timings(count)})) return count;
  }
  return 0;
}

double TuningSchedule::heat_ms(uint32_t needed) const {
  return predict({.compiles = needed, .checks = needed, .timings = kProbes + timings(needed)});
}

}  // namespace lapidary::model
