#include "engine/model/expert_slots.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <list>

#include "engine/base/random.h"

namespace lapidary::model {
namespace {

using Placed = ExpertSlots::Placed;

std::vector<uint32_t> experts_of(const std::vector<Placed>& placed) {
  std::vector<uint32_t> out;
  for (const Placed& one : placed) out.push_back(one.expert);
  return out;
}

TEST(ExpertSlots, KeepsWhatIsThere) {
  ExpertSlots slots(8, 3);
  EXPECT_EQ(experts_of(slots.place(std::vector<uint32_t>{5, 2})), (std::vector<uint32_t>{5, 2}));
  EXPECT_EQ(experts_of(slots.place(std::vector<uint32_t>{2, 7, 5})), (std::vector<uint32_t>{7}));
  EXPECT_EQ(slots.slot_of(0), ExpertSlots::kNone);
  std::vector<uint32_t> taken{slots.slot_of(2), slots.slot_of(5), slots.slot_of(7)};
  std::ranges::sort(taken);
  EXPECT_EQ(taken, (std::vector<uint32_t>{0, 1, 2}));
}

TEST(ExpertSlots, TheLeastUsedGoesUnlessItIsNeeded) {
  ExpertSlots slots(8, 2);
  for (int i = 0; i < 3; ++i) slots.place(std::vector<uint32_t>{1});
  slots.place(std::vector<uint32_t>{2});
  slots.place(std::vector<uint32_t>{3});
  EXPECT_EQ(slots.slot_of(2), ExpertSlots::kNone);
  EXPECT_NE(slots.slot_of(1), ExpertSlots::kNone);
  slots.place(std::vector<uint32_t>{3, 4});
  EXPECT_EQ(slots.slot_of(1), ExpertSlots::kNone);
  slots.forget(4);
  slots.forget(4);
  EXPECT_EQ(slots.slot_of(4), ExpertSlots::kNone);
  EXPECT_NE(slots.slot_of(3), ExpertSlots::kNone);
  EXPECT_EQ(experts_of(slots.place(std::vector<uint32_t>{5})), (std::vector<uint32_t>{5}));
  EXPECT_NE(slots.slot_of(3), ExpertSlots::kNone);
}

TEST(ExpertSlots, TakesThoseThatAreThereFirst) {
  ExpertSlots slots(8, 2);
  slots.place(std::vector<uint32_t>{6, 4});
  EXPECT_EQ(slots.in_turn({1, 4, 1, 7, 6, 4}), (std::vector<uint32_t>{4, 6, 1, 7}));
}

// Tokens whose experts are skewed (the n-th likeliest with a weight of 1/n), and whose likeliest
// ones change every 400 tokens, as texts do.
struct Text {
  Random random{7};
  std::vector<uint32_t> order;
  uint32_t count = 0;

  explicit Text(uint32_t experts) {
    for (uint32_t e = 0; e < experts; ++e) order.push_back(e);
  }
  std::vector<uint32_t> next(uint32_t used) {
    if (count++ % 400 == 0) random.shuffle(std::span(order));
    std::vector<uint32_t> out;
    while (out.size() < used) {
      const double at = std::pow(static_cast<double>(order.size()), random.next() * 0x1p-32);
      const uint32_t expert = order[std::min(order.size(), static_cast<size_t>(at)) - 1];
      if (!std::ranges::contains(out, expert)) out.push_back(expert);
    }
    return out;
  }
};

TEST(ExpertSlots, FrequencyThatGrowsOldBeatsTheLastUsed) {
  constexpr uint32_t kExperts = 128, kSlots = 32, kUsed = 8, kTokens = 4000;
  Text text(kExperts), same(kExperts);
  ExpertSlots slots(kExperts, kSlots);
  std::list<uint32_t> last;  // used, the latest first
  uint32_t read = 0, read_by_last = 0;
  for (uint32_t t = 0; t < kTokens; ++t) {
    read += slots.place(text.next(kUsed)).size();
    for (const uint32_t expert : same.next(kUsed)) {
      const auto there = std::ranges::find(last, expert);
      if (there != last.end()) {
        last.erase(there);
      } else {
        ++read_by_last;
        if (last.size() == kSlots) last.pop_back();
      }
      last.push_front(expert);
    }
  }
  const auto rate = [](uint32_t misses) { return 1 - misses / double{kTokens * kUsed}; };
  std::printf("hits: %.3f by frequency, %.3f by last use\n", rate(read), rate(read_by_last));
  EXPECT_GT(rate(read), rate(read_by_last));
  EXPECT_GT(rate(read), 0.6);
}

}  // namespace
}  // namespace lapidary::model
