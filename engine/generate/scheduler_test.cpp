#include "engine/generate/scheduler.h"

#include <gtest/gtest.h>

#include <numeric>

#include "engine/base/event.h"
#include "engine/base/random.h"
#include "engine/base/task.h"

namespace lapidary::generate {
namespace {

using Shares = std::vector<uint32_t>;

TEST(Scheduler, GivesPlacesInTheOrderOfComing) {
  Scheduler<int> scheduler(2);
  int runs[4];
  EXPECT_TRUE(scheduler.empty());
  EXPECT_EQ(scheduler.admit(), nullptr);
  for (int& run : runs) scheduler.arrive(run);
  EXPECT_EQ(scheduler.admit(), &runs[0]);
  EXPECT_EQ(scheduler.admit(), &runs[1]);
  EXPECT_FALSE(scheduler.can_admit());
  EXPECT_EQ(scheduler.admit(), nullptr);
  scheduler.leave(runs[0]);
  EXPECT_EQ(scheduler.admit(), &runs[2]);
  EXPECT_EQ(scheduler.active()[0], &runs[1]);
  EXPECT_EQ(scheduler.active()[1], &runs[2]);
  scheduler.leave(runs[1]);
  scheduler.leave(runs[2]);
  scheduler.leave(runs[3]);
  EXPECT_TRUE(scheduler.empty());
}

TEST(Scheduler, WhoWaitsMayLeave) {
  Scheduler<int> scheduler(1);
  int runs[3];
  for (int& run : runs) scheduler.arrive(run);
  EXPECT_EQ(scheduler.admit(), &runs[0]);
  scheduler.leave(runs[1]);
  scheduler.leave(runs[0]);
  EXPECT_EQ(scheduler.admit(), &runs[2]);
}

TEST(Scheduler, TurnsGoRound) {
  Scheduler<int> scheduler(3);
  int runs[3];
  for (int& run : runs) scheduler.arrive(run);
  while (scheduler.can_admit()) scheduler.admit();
  std::vector<int> turns(3);
  for (int i = 0; i < 6; ++i) {
    for (int* run : scheduler.active().first(2)) ++turns[static_cast<size_t>(run - runs)];
    scheduler.rotate(2);
  }
  EXPECT_EQ(turns, (std::vector<int>{4, 4, 4}));
  scheduler.rotate(3);
  EXPECT_EQ(scheduler.active().size(), 3u);
}

TEST(ShareOut, NoneWaitsForALongerOne) {
  EXPECT_EQ(share_out(Shares{}, 8), Shares{});
  EXPECT_EQ(share_out(Shares{3}, 8), Shares{3});
  EXPECT_EQ(share_out(Shares{30}, 8), Shares{8});
  EXPECT_EQ(share_out(Shares{100, 3}, 8), (Shares{5, 3}));
  EXPECT_EQ(share_out(Shares{100, 100}, 8), (Shares{4, 4}));
  EXPECT_EQ(share_out(Shares{100, 2, 100}, 12), (Shares{5, 2, 5}));
  // What does not divide is for the first.
  EXPECT_EQ(share_out(Shares{100, 100}, 1), (Shares{1, 0}));
}

TEST(ShareOut, TheRoomIsUsedAndNoMore) {
  Random random(7);
  for (int i = 0; i < 2000; ++i) {
    Shares pending(random.below(9));
    for (uint32_t& one : pending) one = random.below(20);
    const uint32_t room = random.below(60);
    const Shares shares = share_out(pending, room);
    const uint32_t wanted = std::accumulate(pending.begin(), pending.end(), 0u);
    EXPECT_EQ(std::accumulate(shares.begin(), shares.end(), 0u), std::min(wanted, room));
    for (size_t a = 0; a < shares.size(); ++a) {
      EXPECT_LE(shares[a], pending[a]);
      for (size_t b = 0; b < shares.size(); ++b) {
        // Who has more than another by more than the rest of the division left that one nothing to
        // wish for.
        if (shares[a] > shares[b] + pending.size()) EXPECT_EQ(shares[b], pending[b]);
      }
    }
  }
}

Task<void> count_notices(Event& event, int& seen, int until) {
  while (seen < until) {
    co_await event;
    ++seen;
  }
}

TEST(Event, WakesWhoWaitsAndIsKeptForWhoComesLater) {
  Event event;
  int seen = 0;
  event.notify();
  spawn(count_notices(event, seen, 3));
  EXPECT_EQ(seen, 1);
  event.notify();
  EXPECT_EQ(seen, 2);
  event.notify();
  EXPECT_EQ(seen, 3);
}

}  // namespace
}  // namespace lapidary::generate
