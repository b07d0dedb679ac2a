// How large a picture becomes before the vision tower sees it (gemma4.md §7.1).
#pragma once

#include <array>
#include <cstdint>

#include "engine/base/error.h"

namespace lapidary::vision {

// Soft tokens that a picture may become at most.
inline constexpr std::array<uint32_t, 5> kTokenBudgets = {70, 140, 280, 560, 1120};
inline constexpr uint32_t kDefaultTokenBudget = 280;

// A soft token is made from kPooling by kPooling patches of kPatch by kPatch pixels.
inline constexpr uint32_t kPatch = 16;
inline constexpr uint32_t kPooling = 3;
inline constexpr uint32_t kTokenSide = kPatch * kPooling;  // pixels

// Of a picture that is given: its longer side, and its pixels.
inline constexpr uint32_t kMaxSide = 65'535;
inline constexpr uint64_t kMaxPixels = 100'000'000;

struct ImageSize {
  uint32_t width = 0;  // pixels
  uint32_t height = 0;
  bool operator==(const ImageSize&) const = default;

  uint64_t pixels() const { return uint64_t{width} * height; }
};

// Soft tokens of a picture of a size that tower_size() gave.
constexpr uint32_t soft_tokens(ImageSize size) {
  return size.width / kTokenSide * (size.height / kTokenSide);
}

// The size, in multiples of kTokenSide, to which `given` is scaled, up or down: its shape is kept
// as well as those multiples allow, and soft_tokens() is at most `budget`. kInvalidArgument: no
// pixels, a side above kMaxSide, more than kMaxPixels, or a budget that is none of kTokenBudgets.
Result<ImageSize> tower_size(ImageSize given, uint32_t budget);

}  // namespace lapidary::vision
