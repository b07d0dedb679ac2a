#include "engine/model/expert_slots.h"

#include <algorithm>
#include <cmath>

namespace lapidary::model {
namespace {

// Instead of all scores growing old, a use counts more than the one before: twice as much after so
// many times.
constexpr double kHalfLife = 64;
constexpr double kLargest = 1e100;

}  // namespace

std::vector<ExpertSlots::Placed> ExpertSlots::place(std::span<const uint32_t> needed) {
  use_ *= std::exp2(1 / kHalfLife);
  if (use_ > kLargest) {
    for (double& score : score_) score /= use_;
    use_ = 1;
  }
  for (const uint32_t expert : needed) score_[expert] += use_;
  std::vector<Placed> placed;
  for (const uint32_t expert : needed) {
    if (slot_of_[expert] != kNone) continue;
    // A free one, else the worst that is not needed itself.
    uint32_t best = kNone;
    double least = INFINITY;
    for (uint32_t slot = 0; slot < slots(); ++slot) {
      const uint32_t there = expert_in_[slot];
      const double score = there == kNone ? -1 : score_[there];
      if (score >= least || (there != kNone && std::ranges::contains(needed, there))) continue;
      best = slot;
      least = score;
    }
    if (expert_in_[best] != kNone) slot_of_[expert_in_[best]] = kNone;
    expert_in_[best] = expert;
    slot_of_[expert] = best;
    placed.push_back({expert, best});
  }
  return placed;
}

void ExpertSlots::forget(uint32_t expert) {
  if (slot_of_[expert] == kNone) return;
  expert_in_[slot_of_[expert]] = kNone;
  slot_of_[expert] = kNone;
}

std::vector<uint32_t> ExpertSlots::in_turn(std::vector<uint32_t> needed) const {
  std::ranges::sort(needed);
  const auto end = std::ranges::unique(needed).begin();
  needed.erase(end, needed.end());
  std::ranges::stable_partition(needed, [&](uint32_t expert) { return slot_of_[expert] != kNone; });
  return needed;
}

}  // namespace lapidary::model
