#include "engine/vision/resize.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"

namespace lapidary::vision {
namespace {

constexpr int kBits = 22;  // of the weights' fractions
constexpr uint32_t kChannels = 3;

double bicubic(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1) return ((kA + 2) * x - (kA + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * kA;
  return 0;
}

uint8_t rounded(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kBits, int32_t{0}, int32_t{255}));
}

}  // namespace

ResizeAxis::ResizeAxis(uint32_t from, uint32_t to) : from_(from), to_(to) {
  const double scale = static_cast<double>(from) / to;
  const double widened = std::max(scale, 1.0);
  const double support = 2 * widened;
  std::vector<double> values;
  for (uint32_t i = 0; i < to; ++i) {
    const double center = (i + 0.5) * scale;
    const auto first = static_cast<uint32_t>(std::max(center - support + 0.5, 0.0));
    const auto end = std::min(static_cast<uint32_t>(std::floor(center + support + 0.5)), from);
    values.clear();
    double total = 0;
    for (uint32_t x = first; x < end; ++x)
      total += values.emplace_back(bicubic((x - center + 0.5) * (1 / widened)));
    spans_.push_back({first, end - first, static_cast<uint32_t>(weights_.size())});
    for (const double value : values)
      weights_.push_back(static_cast<int32_t>(std::round(value / total * (1 << kBits))));
  }
}

Resizer::Resizer(ImageSize from, ImageSize to)
    : from_(from), to_(to), across_(from.width, to.width), down_(from.height, to.height) {
  rows_.reserve(uint64_t{kChannels} * to.width * from.height);
}

void Resizer::take_row(std::span<const uint8_t> row) {
  if (!across_.changes()) {
    rows_.insert(rows_.end(), row.begin(), row.end());
    return;
  }
  for (uint32_t x = 0; x < to_.width; ++x) {
    const uint8_t* pixel = row.data() + size_t{kChannels} * across_.first(x);
    int32_t sums[kChannels] = {1 << (kBits - 1), 1 << (kBits - 1), 1 << (kBits - 1)};
    for (const int32_t weight : across_.weights(x)) {
      for (int32_t& sum : sums) sum += *pixel++ * weight;
    }
    for (const int32_t sum : sums) rows_.push_back(rounded(sum));
  }
}

Status Resizer::push(std::span<const uint8_t> bytes) {
  const size_t row_bytes = size_t{kChannels} * from_.width;
  const size_t held = rows_.size() / to_.width / kChannels * row_bytes + row_.size();
  if (bytes.size() > row_bytes * from_.height - held) {
    return fail(ErrorCode::kInvalidArgument,
                cat("an image of ", from_.width, " by ", from_.height,
                    " pixels has no more bytes than ", row_bytes * from_.height));
  }
  while (!bytes.empty()) {
    if (row_.empty() && bytes.size() >= row_bytes) {
      take_row(bytes.first(row_bytes));
      bytes = bytes.subspan(row_bytes);
      continue;
    }
    const size_t some = std::min(bytes.size(), row_bytes - row_.size());
    row_.insert(row_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(some));
    bytes = bytes.subspan(some);
    if (row_.size() < row_bytes) continue;
    take_row(row_);
    row_.clear();
  }
  return {};
}

Result<std::vector<uint8_t>> Resizer::finish() && {
  const size_t width = size_t{kChannels} * to_.width;
  if (rows_.size() < width * from_.height)
    return fail(ErrorCode::kTruncated,
                cat("the image's pixels end in row ", rows_.size() / width, " of ", from_.height));
  if (!down_.changes()) return std::move(rows_);
  std::vector<uint8_t> out;
  out.reserve(width * to_.height);
  std::vector<int32_t> sums(width);
  for (uint32_t y = 0; y < to_.height; ++y) {
    std::ranges::fill(sums, 1 << (kBits - 1));
    const uint8_t* row = rows_.data() + width * down_.first(y);
    for (const int32_t weight : down_.weights(y)) {
      for (int32_t& sum : sums) sum += *row++ * weight;
    }
    for (const int32_t sum : sums) out.push_back(rounded(sum));
  }
  return out;
}

}  // namespace lapidary::vision
