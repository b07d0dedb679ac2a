#include "engine/model/row_cache.h"

#include <gtest/gtest.h>

namespace lapidary::model {
namespace {

std::vector<std::byte> row(uint8_t value) { return {std::byte{value}, std::byte{value}}; }

bool holds(RowCache& cache, uint32_t key, uint8_t value) {
  const Bytes bytes = cache.find(key);
  return bytes.size() == 2 && bytes[0] == std::byte{value} && bytes[1] == std::byte{value};
}

TEST(RowCache, DropsTheRowLongestWithoutUse) {
  RowCache cache(2, 7);  // three rows of two bytes
  for (const uint8_t i : {1, 2, 3}) cache.put(i, row(i));
  EXPECT_TRUE(holds(cache, 1, 1));
  cache.put(4, row(4));
  EXPECT_EQ(cache.size(), 3u);
  EXPECT_TRUE(cache.find(2).empty());
  EXPECT_TRUE(holds(cache, 1, 1));
  EXPECT_TRUE(holds(cache, 3, 3));
  EXPECT_TRUE(holds(cache, 4, 4));
}

TEST(RowCache, ARowPutAgainIsHeldOnce) {
  RowCache cache(2, 4);
  cache.put(1, row(1));
  cache.put(1, row(9));
  EXPECT_EQ(cache.size(), 1u);
  EXPECT_TRUE(holds(cache, 1, 9));
  cache.put(2, row(2));
  EXPECT_TRUE(holds(cache, 1, 9));
  EXPECT_TRUE(holds(cache, 2, 2));
}

TEST(RowCache, HoldsNothingWhereNotOneRowFits) {
  RowCache cache(2, 1);
  cache.put(1, row(1));
  EXPECT_EQ(cache.size(), 0u);
  EXPECT_TRUE(cache.find(1).empty());
}

}  // namespace
}  // namespace lapidary::model
