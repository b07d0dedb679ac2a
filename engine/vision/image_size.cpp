#include "engine/vision/image_size.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"

namespace lapidary::vision {
namespace {

// What a side becomes where the other one would be less than a token.
uint32_t beside_one_token(uint32_t side, uint32_t shorter, uint32_t budget) {
  return std::min(side / shorter, budget) * kTokenSide;
}

}  // namespace

Result<ImageSize> tower_size(ImageSize given, uint32_t budget) {
  if (std::ranges::find(kTokenBudgets, budget) == kTokenBudgets.end()) {
    return fail(ErrorCode::kInvalidArgument,
                cat("an image cannot become ", budget, " tokens: 70, 140, 280, 560 or 1120 can"));
  }
  if (given.width == 0 || given.height == 0) {
    return fail(ErrorCode::kInvalidArgument,
                cat("an image of ", given.width, " by ", given.height, " pixels shows nothing"));
  }
  if (std::max(given.width, given.height) > kMaxSide || given.pixels() > kMaxPixels) {
    return fail(
        ErrorCode::kInvalidArgument,
        cat("an image of ", given.width, " by ", given.height, " pixels is too large: at most ",
            kMaxSide, " a side and ", kMaxPixels, " in all can be read; scale it down"));
  }
  const double target = 1.0 * budget * kTokenSide * kTokenSide;
  const double factor = std::sqrt(target / static_cast<double>(given.pixels()));
  const auto scaled = [&](uint32_t side) {
    return static_cast<uint32_t>(std::floor(factor * side / kTokenSide)) * kTokenSide;
  };
  ImageSize size{scaled(given.width), scaled(given.height)};
  // Not both: the area would be less than a token's.
  if (size.width == 0) {
    size = {kTokenSide, beside_one_token(given.height, given.width, budget)};
  } else if (size.height == 0) {
    size = {beside_one_token(given.width, given.height, budget), kTokenSide};
  }
  return size;
}

}  // namespace lapidary::vision
