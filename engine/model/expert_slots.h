// Which experts of a layer are kept where there is room for some of them: those that were used
// most, and lately.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lapidary::model {

class ExpertSlots {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // slots: 1..experts.
  ExpertSlots(uint32_t experts, uint32_t slots)
      : slot_of_(experts, kNone), score_(experts, 0.0), expert_in_(slots, kNone) {}

  struct Placed {
    uint32_t expert, slot;
  };
  // Slots for experts that are needed now: distinct ones, no more than there are slots. The result
  // is those that were not there; each has taken the slot of the one that is needed least.
  std::vector<Placed> place(std::span<const uint32_t> needed);
  // Its slot, or kNone.
  uint32_t slot_of(uint32_t expert) const { return slot_of_[expert]; }
  // What its slot holds is not the expert.
  void forget(uint32_t expert);
  // Experts in an order in which as many as there are slots can be placed at a time, those that are
  // there first.
  std::vector<uint32_t> in_turn(std::vector<uint32_t> needed) const;
  uint32_t slots() const { return static_cast<uint32_t>(expert_in_.size()); }

 private:
  std::vector<uint32_t> slot_of_;  // by expert
  std::vector<double> score_;      // by expert: uses, the older the less
  std::vector<uint32_t> expert_in_;
  double use_ = 1;  // what a use counts now
};

}  // namespace lapidary::model
