#include "engine/base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

namespace lapidary {
namespace {

// The values that the generator's author publishes for this seed and stream (pcg32-demo).
TEST(Random, IsPcg32) {
  Random random(42, 54);
  for (const uint32_t expected :
       {0xA15C02B7u, 0x7B47F409u, 0xBA1D3330u, 0x83D2F293u, 0xBFA4784Bu, 0xCBED606Eu}) {
    EXPECT_EQ(random.next(), expected);
  }
}

TEST(Random, BoundsWithoutBias) {
  Random random(1);
  EXPECT_EQ(random.below(0), 0u);
  EXPECT_EQ(random.below(1), 0u);
  std::array<int, 6> counts{};
  for (int i = 0; i < 60000; ++i) ++counts.at(random.below(6));
  // Each is 10000, with a standard deviation of 91.
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
  // A bound that leaves the most to reject: two of three values lie in the lower half.
  constexpr uint32_t kBound = 3u << 30;
  int low = 0;
  for (int i = 0; i < 30000; ++i) low += random.below(kBound) < kBound / 3 * 2 ? 1 : 0;
  EXPECT_NEAR(low, 20000, 500);
}

TEST(Random, ShufflesToEveryOrder) {
  std::array<int, 6> counts{};
  Random random(7);
  for (int i = 0; i < 6000; ++i) {
    std::array<int, 3> items = {0, 1, 2};
    random.shuffle(std::span<int>(items));
    ++counts.at(static_cast<size_t>(2 * items[0] + (items[1] > items[2] ? 1 : 0)));
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(Random, StreamsDiffer) {
  Random a(5, 0), b(5, 1), c(6, 0);
  int equal = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint32_t x = a.next();
    equal += (x == b.next() ? 1 : 0) + (x == c.next() ? 1 : 0);
  }
  EXPECT_LE(equal, 1);
}

}  // namespace
}  // namespace lapidary
