#include "engine/dataset/split.h"

#include <algorithm>
#include <cmath>

#include "engine/base/random.h"
#include "engine/base/text.h"

namespace lapidary::dataset {
namespace {

// Streams of Random 0, 1, … are the epochs'.
constexpr uint64_t kSplitStream = uint64_t{1} << 62;

}  // namespace

Result<Split> split(const Dataset& dataset, const EvalShare& share, uint64_t seed) {
  std::vector<uint64_t> lines;
  for (size_t i = 0; i < dataset.size(); ++i) lines.push_back(dataset.line(i));
  std::ranges::sort(lines);
  lines.erase(std::unique(lines.begin(), lines.end()), lines.end());
  if (!(share.fraction >= 0 && share.fraction < 1)) {
    return fail(ErrorCode::kInvalidArgument, "the fraction to evaluate is not from 0 to 1");
  }
  size_t count = share.count;
  if (count == 0 && share.fraction > 0) {
    const double lines_wanted = share.fraction * static_cast<double>(lines.size());
    count = std::max<size_t>(1, static_cast<size_t>(std::floor(lines_wanted + 0.5)));
  }
  if (count >= lines.size()) {
    return fail(ErrorCode::kInvalidArgument, cat("of ", lines.size(), " lines of data, ", count,
                                                 " to evaluate leave none to train on"));
  }
  Random(seed, kSplitStream).shuffle(std::span<uint64_t>(lines));
  lines.resize(count);
  std::ranges::sort(lines);
  Split out;
  for (size_t i = 0; i < dataset.size(); ++i) {
    const bool eval = std::ranges::binary_search(lines, dataset.line(i));
    (eval ? out.eval : out.train).push_back(static_cast<uint32_t>(i));
  }
  return out;
}

}  // namespace lapidary::dataset
