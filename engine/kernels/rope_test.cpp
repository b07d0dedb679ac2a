// The rope tables against cosines in double, over every part of the position range.
#include "engine/kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lapidary::kernels {
namespace {

// As the kernels combine the two tables.
struct Turn {
  double cos, sin;
};
Turn turn(const std::vector<float>& table, uint32_t pairs, uint32_t position, uint32_t pair) {
  const size_t lo = 2 * (size_t{position % kRopeLow} * pairs + pair);
  const size_t hi = 2 * (size_t{kRopeLow + position / kRopeLow} * pairs + pair);
  return {table[hi] * table[lo] - table[hi + 1] * table[lo + 1],
          table[hi] * table[lo + 1] + table[hi + 1] * table[lo]};
}

TEST(Rope, TablesGiveEveryPosition) {
  const uint32_t context = 131072;
  const std::vector<float> table = rope_table(256, 128, 10000.0, {}, context);
  ASSERT_EQ(table.size(), (256 + context / 256) * 128 * 2u);
  for (uint32_t position : {0u, 1u, 255u, 256u, 257u, 70001u, context - 1}) {
    for (uint32_t pair : {0u, 1u, 64u, 127u}) {
      const double angle = position * std::pow(10000.0, -2.0 * pair / 256);
      const Turn got = turn(table, 128, position, pair);
      EXPECT_NEAR(got.cos, std::cos(angle), 3e-7) << position << " " << pair;
      EXPECT_NEAR(got.sin, std::sin(angle), 3e-7) << position << " " << pair;
    }
  }
}

TEST(Rope, FactorsDivideTheFrequencies) {
  const std::vector<float> factors = {1.0f, 2.0f, 1e30f, 1e30f};
  EXPECT_EQ(rope_rotated_pairs(8, factors), 2u);
  const std::vector<float> table = rope_table(8, 2, 1e6, factors, 1000);
  ASSERT_EQ(table.size(), (256 + 4) * 2 * 2u);
  const double angle = 777 * std::pow(1e6, -2.0 / 8) / 2;
  EXPECT_NEAR(turn(table, 2, 777, 1).cos, std::cos(angle), 3e-7);
  EXPECT_NEAR(turn(table, 2, 777, 1).sin, std::sin(angle), 3e-7);
}

TEST(Rope, RotatedPairs) {
  EXPECT_EQ(rope_rotated_pairs(512, {}), 256u);
  EXPECT_EQ(rope_rotated_pairs(4, std::vector<float>{1e30f, 1e30f}), 0u);
  EXPECT_EQ(rope_rotated_pairs(4, std::vector<float>{1.0f, NAN}), 1u);
  EXPECT_EQ(rope_rotated_pairs(4, std::vector<float>{1.0f, 1.0f, 1.0f, 1.0f}), 2u);
}

TEST(Rope, OddSizesStayInBounds) {
  EXPECT_EQ(rope_table(64, 0, 10000.0, {}, 100), (std::vector<float>{1.0f, 0.0f}));
  EXPECT_EQ(rope_table(2, 1, 10000.0, {}, 0).size(), 257 * 2u);
  EXPECT_EQ(rope_table(2, 1, 10000.0, {}, 0xffffffffu).size(), (256 + 1024) * 2u);
}

}  // namespace
}  // namespace lapidary::kernels
