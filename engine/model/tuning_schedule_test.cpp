#include "engine/model/tuning_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lapidary::model {
namespace {

using Step = TuningSchedule::Step;

// A GPU whose steps take as long as they are told to.
struct Simulation {
  explicit Simulation(double budget_ms) : schedule(budget_ms, [this] { return now; }) {}

  void take(Step step, double ms, uint32_t candidates = 1) {
    schedule.begin();
    now += ms;
    longest = std::max(longest, ms);
    schedule.end(step, candidates);
  }

  // One heat as the tuner runs it: candidates while they fit, a probe, rounds. Compiling n at once
  // takes compile + (n - 1) * beside. Returns how many were compared; 0: the heat was given up.
  uint32_t heat(uint32_t candidates, double compile, double check, double timing,
                double beside = 0) {
    schedule.begin_product();
    uint32_t ready = 0;
    for (bool fits = true; fits && ready < candidates;) {
      const uint32_t batch = schedule.batch(ready, 2, candidates - ready);
      if (batch == 0) break;
      take(Step::kCompile, compile + (batch - 1) * beside, batch);
      for (uint32_t left = batch; left > 0; --left) {
        fits = schedule.fits_check(ready, 2, left);
        if (!fits) break;
        take(Step::kCheck, check);
        ++ready;
      }
    }
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

  double now = 1000;
  double longest = 0;
  TuningSchedule schedule;
};

TEST(TuningSchedule, TakesAllCandidatesWhereThereIsTime) {
  Simulation gpu(10'000);
  EXPECT_EQ(gpu.heat(7, 20, 3, 5), 7u);
}

TEST(TuningSchedule, TakesAsManyCandidatesAsFit) {
  Simulation gpu(300);
  const uint32_t compared = gpu.heat(12, 20, 3, 5);
  EXPECT_GE(compared, 2u);
  EXPECT_LT(compared, 12u);
  EXPECT_LE(gpu.now, 1300);
  // Not one more would have fitted.
  EXPECT_GT(gpu.now + 20 + 3 + 5 * 5, 1300);
}

TEST(TuningSchedule, CompilesAsManyAtOnceAsFit) {
  Simulation gpu(300);
  EXPECT_EQ(gpu.schedule.batch(0, 2, 12), 2u);  // nothing was compiled yet
  gpu.take(Step::kCompile, 40, 2);
  gpu.take(Step::kCheck, 1);
  gpu.take(Step::kTime, 4);
  // 255 are left; n more take at most 20 n to be compiled, 1 n to be checked, 12 + 4 * 5 (2 + n) to
  // be timed.
  EXPECT_EQ(gpu.schedule.batch(2, 2, 12), 4u);
  EXPECT_EQ(gpu.schedule.batch(2, 2, 3), 3u);
  gpu.now += 200;
  EXPECT_EQ(gpu.schedule.batch(2, 2, 12), 0u);
}

TEST(TuningSchedule, ComparesMoreWhereCompilingSideBySideCostsLittle) {
  Simulation apart(300);
  Simulation together(300);
  EXPECT_GT(together.heat(12, 40, 1, 4, 5), apart.heat(12, 40, 1, 4, 40));
  EXPECT_LE(together.now, 1300);
  EXPECT_LE(apart.now, 1300);
}

TEST(TuningSchedule, LeavesCandidatesOutWhereTimingTakesLongerThanAChecksSay) {
  Simulation gpu(300);
  const uint32_t compared = gpu.heat(12, 2, 1, 15);
  EXPECT_GE(compared, 2u);
  EXPECT_LT(compared, 4u);
  EXPECT_LE(gpu.now, 1300);
}

TEST(TuningSchedule, NeverOverrunsByMoreThanOneStep) {
  for (const double compile : {1.0, 30.0, 200.0, 900.0}) {
    for (const double check : {1.0, 40.0}) {
      for (const double timing : {4.0, 9.0, 70.0}) {
        for (const double beside : {0.0, compile / 2, compile}) {
          Simulation gpu(300);
          for (int i = 0; i < 20; ++i) gpu.heat(12, compile, check, timing, beside);
          EXPECT_LE(gpu.now, 1300 + gpu.longest);
        }
      }
    }
  }
}

TEST(TuningSchedule, StopsAfterAStepThatTookLongerThanPredicted) {
  Simulation gpu(300);
  gpu.take(Step::kTime, 4);
  EXPECT_TRUE(gpu.schedule.fits_timing());
  gpu.take(Step::kTime, 320);
  EXPECT_FALSE(gpu.schedule.fits_timing());
  EXPECT_EQ(gpu.schedule.batch(0, 2, 12), 0u);
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
  Simulation gpu(300);
  EXPECT_EQ(gpu.heat(7, 200, 1, 4), 0u);
  const double needed = gpu.schedule.heat_ms(2);
  EXPECT_FALSE(gpu.schedule.within_budget(needed));
  // With that much its heat ends.
  Simulation longer(needed + 0.001);
  EXPECT_EQ(longer.heat(7, 200, 1, 4), 2u);
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
  EXPECT_EQ(gpu.schedule.batch(0, 2, 2), 2u);
  gpu.schedule.set_slow(false);
  EXPECT_EQ(gpu.schedule.batch(0, 2, 2), 0u);
  gpu.schedule.begin_product();
  EXPECT_TRUE(gpu.schedule.warms_up());
}

}  // namespace
}  // namespace lapidary::model
