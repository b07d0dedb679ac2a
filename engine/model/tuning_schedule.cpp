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
  for (const Step step : {Step::kCheck, Step::kTime}) last_[static_cast<size_t>(step)] = {-1, -1};
}

void TuningSchedule::end(Step step) {
  auto& last = last_[static_cast<size_t>(step)];
  if (step == Step::kCompile && std::exchange(compiles_are_others_, false)) last[0] = -1;
  last = {clock_() - step_start_, last[0]};
}

// A submission that is timed takes no less than a check, which computes the product once.
double TuningSchedule::predict(const Work& work) const {
  const auto longest = [&](Step step, double least) {
    const auto& last = last_[static_cast<size_t>(step)];
    const double most = std::max(last[0], last[1]);
    return most < 0 ? least : most;
  };
  const double check = longest(Step::kCheck, kLeastCheck);
  return work.compiles * longest(Step::kCompile, 0) + work.checks * check +
         work.timings * longest(Step::kTime, std::max(kLeastTime, check));
}

bool TuningSchedule::fits_candidate(uint32_t ready, uint32_t needed, bool compiled) const {
  const uint32_t then = std::max(ready + 1, needed);
  const uint32_t missing = then - ready;
  return fits({.compiles = compiled ? missing - 1 : missing,
               .checks = missing,
               .timings = kProbes + timings(then)});
}

double TuningSchedule::heat_ms(uint32_t needed) const {
  return predict({.compiles = needed, .checks = needed, .timings = kProbes + timings(needed)});
}

}  // namespace lapidary::model
