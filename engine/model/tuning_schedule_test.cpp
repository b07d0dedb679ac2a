#include "engine/model/tuning_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace lapidary::model {
namespace {

using Step = TuningSchedule::Step;

// A GPU whose steps take as long as they are told to.
struct Simulation {
  explicit Simulation(double budget_ms, uint32_t side_by_side = 1)
      : schedule(budget_ms, side_by_side, [this] { return now; }) {}

  void take(Step step, double ms, uint32_t candidates = 1) {
    schedule.begin();
    now += ms;
    longest = std::max(longest, ms);
    schedule.end(step, candidates);
  }

  // Heats of some products, as the tuner runs them: their candidates are compiled together, then
  // each heat checks and times as many as fit. Returns how many were compared of each; 0: the heat
  // was given up.
  std::vector<uint32_t> heats(const std::vector<uint32_t>& candidates, double compile, double check,
                              double timing) {
    std::vector<uint32_t> compared(candidates.size());
    if (!schedule.fits_heat(2)) return compared;
    take(Step::kCompile, compile, std::accumulate(candidates.begin(), candidates.end(), 0u));
    for (size_t i = 0; i < candidates.size(); ++i)
      compared[i] = timed(candidates[i], check, timing);
    return compared;
  }
  uint32_t heat(uint32_t candidates, double compile, double check, double timing) {
    return heats({candidates}, compile, check, timing)[0];
  }

  double now = 1000;
  double longest = 0;
  TuningSchedule schedule;

 private:
  uint32_t timed(uint32_t compiled, double check, double timing) {
    schedule.begin_product();
    uint32_t ready = schedule.heat_size(compiled, 2);
    for (uint32_t i = 0; i < ready; ++i) take(Step::kCheck, check);
    if (ready < 2) return 0;
    for (uint32_t i = 0; i < TuningSchedule::kProbes; ++i) {
      if (!schedule.fits_timing()) return 0;
      take(Step::kTime, timing);
    }
    while (ready > 2 && !schedule.fits_rounds(ready)) --ready;
    const uint32_t rounds = schedule.rounds() + (schedule.warms_up() ? 1 : 0);
    for (uint32_t i = 0; i < rounds * ready; ++i) {
      if (!schedule.fits_timing()) return 0;
      take(Step::kTime, timing);
    }
    return ready;
  }
};

TEST(TuningSchedule, TakesAllCandidatesWhereThereIsTime) {
  Simulation gpu(10'000);
  EXPECT_EQ(gpu.heat(7, 140, 3, 5), 7u);
}

TEST(TuningSchedule, TakesAsManyCandidatesAsFit) {
  Simulation gpu(300);
  const uint32_t compared = gpu.heat(12, 120, 3, 5);
  EXPECT_GE(compared, 2u);
  EXPECT_LT(compared, 12u);
  EXPECT_LE(gpu.now, 1300);
  // Not one more would have fitted.
  EXPECT_GT(gpu.now + 3 + 5 * 5, 1300);
}

TEST(TuningSchedule, LeavesCandidatesOutWhereTimingTakesLongerThanAChecksSay) {
  Simulation gpu(300);
  const uint32_t compared = gpu.heat(12, 24, 1, 15);
  EXPECT_GE(compared, 2u);
  EXPECT_LT(compared, 4u);
  EXPECT_LE(gpu.now, 1300);
}

TEST(TuningSchedule, NeverOverrunsByMoreThanOneStep) {
  for (const double compile : {1.0, 30.0, 200.0, 900.0}) {
    for (const double check : {1.0, 40.0}) {
      for (const double timing : {4.0, 9.0, 70.0}) {
        Simulation gpu(300, 8);
        for (int i = 0; i < 10; ++i) gpu.heats({6, 2, 5}, compile, check, timing);
        EXPECT_LE(gpu.now, 1300 + gpu.longest);
      }
    }
  }
}

TEST(TuningSchedule, ComparesSeveralProductsOfWhatWasCompiledTogether) {
  Simulation gpu(300, 16);
  EXPECT_EQ(gpu.schedule.beside(0), 16u);
  EXPECT_EQ(gpu.schedule.beside(5), 11u);
  EXPECT_EQ(gpu.schedule.beside(20), 0u);
  const std::vector<uint32_t> compared = gpu.heats({5, 5, 5}, 120, 1, 2);
  EXPECT_EQ(compared[0], 5u);
  EXPECT_EQ(compared[1], 5u);
  EXPECT_LE(gpu.now, 1300);
}

TEST(TuningSchedule, CompilationsTakeTurnsWhereThereAreMoreThanProcessors) {
  Simulation gpu(1000, 4);
  gpu.take(Step::kCompile, 100, 3);
  gpu.take(Step::kCheck, 1);
  gpu.take(Step::kTime, 4);
  // 895 are left; n take 100 for every four of them to be compiled, n to be checked, and
  // 12 + 4 * 5 n to be timed.
  EXPECT_TRUE(gpu.schedule.fits_heat(16));   // 400 + 16 + 332
  EXPECT_TRUE(gpu.schedule.fits_heat(18));   // 500 + 18 + 372
  EXPECT_FALSE(gpu.schedule.fits_heat(19));  // 500 + 19 + 392
  // In as many turns as before, it takes no less than before.
  gpu.take(Step::kCompile, 400, 16);
  EXPECT_TRUE(gpu.schedule.fits_heat(2));  // 400 + 2 + 52 of 495
  gpu.now += 50;
  EXPECT_FALSE(gpu.schedule.fits_heat(2));
  EXPECT_EQ(gpu.schedule.heat_size(2, 2), 2u);
}

TEST(TuningSchedule, FewerCandidatesThanNeededAreNone) {
  Simulation gpu(100);
  gpu.now += 30;  // two take 2 + 4 * (3 + 10) = 54, three 75
  EXPECT_EQ(gpu.schedule.heat_size(3, 2), 2u);
  EXPECT_EQ(gpu.schedule.heat_size(3, 3), 0u);
  EXPECT_EQ(gpu.schedule.heat_size(1, 2), 0u);
}

TEST(TuningSchedule, StopsAfterAStepThatTookLongerThanPredicted) {
  Simulation gpu(300);
  gpu.take(Step::kTime, 4);
  EXPECT_TRUE(gpu.schedule.fits_timing());
  gpu.take(Step::kTime, 320);
  EXPECT_FALSE(gpu.schedule.fits_timing());
  EXPECT_FALSE(gpu.schedule.fits_heat(2));
  EXPECT_EQ(gpu.schedule.heat_size(12, 2), 0u);
}

TEST(TuningSchedule, PredictsTheLongerOfTheLastTwo) {
  Simulation gpu(100);
  gpu.take(Step::kTime, 40);
  gpu.take(Step::kTime, 10);
  EXPECT_TRUE(gpu.schedule.fits_timing());  // 50 + 40
  gpu.now += 1;
  gpu.take(Step::kTime, 10);
  EXPECT_TRUE(gpu.schedule.fits_timing());  // 61 + 10: what took 40 is forgotten
  gpu.take(Step::kTime, 25);
  EXPECT_FALSE(gpu.schedule.fits_timing());  // 86 + 25
}

TEST(TuningSchedule, AProductTooLongForTheBudgetIsKnownToBeSo) {
  Simulation gpu(300, 2);
  EXPECT_EQ(gpu.heat(2, 290, 1, 4), 0u);
  const double needed = gpu.schedule.heat_ms(2);
  EXPECT_FALSE(gpu.schedule.within_budget(needed));
  // With that much its heat ends.
  Simulation longer(needed + 0.001, 2);
  EXPECT_EQ(longer.heat(2, 290, 1, 4), 2u);
}

TEST(TuningSchedule, SlowProductsAreTimedOnce) {
  Simulation gpu(1000);
  gpu.schedule.begin_product();
  gpu.schedule.set_slow(true);
  EXPECT_EQ(gpu.schedule.rounds(), 1u);
  EXPECT_FALSE(gpu.schedule.warms_up());
  gpu.take(Step::kCompile, 10);
  gpu.take(Step::kCheck, 90);
  gpu.take(Step::kTime, 90);
  // Of 810 left two that are timed once take 2 * (10 + 90 + 90) and 270 for the probe.
  EXPECT_TRUE(gpu.schedule.fits_heat(2));
  gpu.schedule.set_slow(false);
  EXPECT_FALSE(gpu.schedule.fits_heat(2));
  gpu.schedule.begin_product();
  EXPECT_TRUE(gpu.schedule.warms_up());
}

}  // namespace
}  // namespace lapidary::model
