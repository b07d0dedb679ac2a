#include "engine/vision/resize.h"

#include <gtest/gtest.h>

#include "engine/reference/fixture.h"

namespace lapidary::vision {
namespace {

// The picture that the fixtures were made from.
std::vector<uint8_t> picture(ImageSize size) {
  std::vector<uint8_t> rgb;
  for (uint32_t y = 0; y < size.height; ++y) {
    for (uint32_t x = 0; x < size.width; ++x) {
      for (const uint32_t value : {x * 7 + y * 3, x * x / 5 + y * 11, (x ^ y) * 5})
        rgb.push_back(static_cast<uint8_t>(value));
    }
  }
  return rgb;
}

TEST(ImageSize, IsTheReferences) {
  const Json sizes = reference::read_fixture_json("vision/resize.json")["sizes"];
  ASSERT_EQ(sizes.size(), 100u);
  for (const Json& row : sizes) {
    const uint32_t budget = row[2];
    const auto size = tower_size({.width = row[1], .height = row[0]}, budget);
    ASSERT_TRUE(size) << row.dump();
    EXPECT_EQ(*size, (ImageSize{.width = row[4], .height = row[3]})) << row.dump();
    EXPECT_GE(soft_tokens(*size), 1u);
    EXPECT_LE(soft_tokens(*size), budget);
  }
}

TEST(ImageSize, OfAnyShapeFitsTheBudget) {
  for (const uint32_t budget : kTokenBudgets) {
    for (const uint32_t width : {1u, 2u, 3u, 47u, 48u, 1000u, 65'535u}) {
      for (const uint32_t height : {1u, 5u, 49u, 1525u}) {
        const auto size = tower_size({width, height}, budget);
        ASSERT_TRUE(size);
        EXPECT_GE(soft_tokens(*size), 1u) << width << "x" << height;
        EXPECT_LE(soft_tokens(*size), budget) << width << "x" << height;
        EXPECT_EQ(size->width % kTokenSide, 0u);
        EXPECT_EQ(size->height % kTokenSide, 0u);
      }
    }
  }
}

TEST(ImageSize, RefusesWhatCannotBe) {
  for (const ImageSize size :
       {ImageSize{0, 0}, {0, 7}, {7, 0}, {65'536, 1}, {20'000, 20'000}, {UINT32_MAX, UINT32_MAX}}) {
    const auto refused = tower_size(size, 280);
    ASSERT_FALSE(refused) << size.width;
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  }
  for (const uint32_t budget : {0u, 1u, 279u, 1121u})
    EXPECT_EQ(tower_size({100, 100}, budget).error().code, ErrorCode::kInvalidArgument);
}

TEST(Resize, IsPillowsByteForByte) {
  const Json cases = reference::read_fixture_json("vision/resize.json")["resized"];
  const std::vector<std::byte> wanted = reference::read_fixture("vision/resized.rgb.gz");
  size_t at = 0;
  for (const Json& row : cases) {
    const ImageSize from{row[0], row[1]};
    const ImageSize to{row[2], row[3]};
    const std::vector<uint8_t> rgb = picture(from);
    // Pieces that are no whole rows, and ones of several.
    for (const size_t piece : {size_t{1}, size_t{100}, size_t{1000}, rgb.size()}) {
      Resizer resizer(from, to);
      for (size_t i = 0; i < rgb.size(); i += piece)
        ASSERT_TRUE(resizer.push(std::span(rgb).subspan(i, std::min(piece, rgb.size() - i))));
      const auto out = std::move(resizer).finish();
      ASSERT_TRUE(out);
      ASSERT_EQ(out->size(), to.pixels() * 3);
      EXPECT_EQ(std::memcmp(out->data(), wanted.data() + at, out->size()), 0) << row.dump();
    }
    at += to.pixels() * 3;
  }
  EXPECT_EQ(at, wanted.size());
}

TEST(Resize, KeepsAPictureOfTheRightSize) {
  const ImageSize size{96, 48};
  const std::vector<uint8_t> rgb = picture(size);
  Resizer resizer(size, size);
  ASSERT_TRUE(resizer.push(rgb));
  EXPECT_EQ(std::move(resizer).finish().value(), rgb);
}

TEST(Resize, RefusesTooManyAndTooFewBytes) {
  Resizer resizer({3, 2}, {48, 48});
  ASSERT_TRUE(resizer.push(std::vector<uint8_t>(17)));
  EXPECT_EQ(resizer.push(std::vector<uint8_t>(2)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(std::move(resizer).finish().error().code, ErrorCode::kTruncated);
}

}  // namespace
}  // namespace lapidary::vision
