// Scaling of pictures: bicubic (a = -1/2), with the filter widened where it scales down, in two
// passes over bytes, the horizontal one first. The arithmetic is Pillow's, byte for byte.
#pragma once

#include <span>
#include <vector>

#include "engine/vision/image_size.h"

namespace lapidary::vision {

// The filter along one axis: output i is the sum of `count` inputs from `first` on, each times a
// weight.
class ResizeAxis {
 public:
  ResizeAxis(uint32_t from, uint32_t to);
  bool changes() const { return from_ != to_; }
  uint32_t first(uint32_t i) const { return spans_[i].first; }
  std::span<const int32_t> weights(uint32_t i) const {
    return std::span(weights_).subspan(spans_[i].at, spans_[i].count);
  }

 private:
  struct Span {
    uint32_t first, count, at;
  };
  uint32_t from_, to_;
  std::vector<Span> spans_;
  std::vector<int32_t> weights_;  // times 2^22
};

// Takes a picture row by row, so that it need not be in memory as a whole.
class Resizer {
 public:
  // Both sizes as tower_size() takes and gives them.
  Resizer(ImageSize from, ImageSize to);

  // The next bytes, RGB, of rows from top to bottom; any number of them. kInvalidArgument: more
  // than the picture has.
  Status push(std::span<const uint8_t> bytes);
  // After all bytes: RGB of the new size. kTruncated: some did not come.
  Result<std::vector<uint8_t>> finish() &&;
  ImageSize size() const { return to_; }

 private:
  void take_row(std::span<const uint8_t> row);

  ImageSize from_, to_;
  ResizeAxis across_, down_;
  std::vector<uint8_t> row_;   // begun, not complete
  std::vector<uint8_t> rows_;  // of the given height and the new width
};

}  // namespace lapidary::vision
