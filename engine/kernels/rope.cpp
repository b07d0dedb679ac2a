#include "engine/kernels/rope.h"

#include <algorithm>
#include <cmath>

namespace lapidary::kernels {

uint32_t rope_rotated_pairs(uint32_t head_dim, std::span<const float> freq_factors) {
  const uint32_t half = head_dim / 2;
  if (freq_factors.empty()) return half;
  uint32_t pairs = static_cast<uint32_t>(std::min<size_t>(half, freq_factors.size()));
  // Written so that NaN, too, counts as unrotated.
  while (pairs > 0 && !(std::abs(freq_factors[pairs - 1]) < 1e20f)) --pairs;
  return pairs;
}

std::vector<float> rope_table(uint32_t head_dim, uint32_t rotated_pairs, double theta,
                              std::span<const float> freq_factors, uint32_t context) {
  if (rotated_pairs == 0) return {1.0f, 0.0f};
  context = std::clamp(context, 1u, kRopeMaxContext);
  const uint32_t high = (context + kRopeLow - 1) / kRopeLow;
  const size_t row = size_t{rotated_pairs} * 2;
  std::vector<float> table((kRopeLow + high) * row);
  for (uint32_t i = 0; i < rotated_pairs; ++i) {
    double frequency = std::pow(theta, -2.0 * i / head_dim);
    if (!freq_factors.empty()) frequency /= freq_factors[i];
    for (uint32_t r = 0; r < kRopeLow + high; ++r) {
      const double position =
          r < kRopeLow ? r : static_cast<double>(r - kRopeLow) * static_cast<double>(kRopeLow);
      table[r * row + 2 * i] = static_cast<float>(std::cos(position * frequency));
      table[r * row + 2 * i + 1] = static_cast<float>(std::sin(position * frequency));
    }
  }
  return table;
}

}  // namespace lapidary::kernels
