// Which of several runs have a place, and what of their prompts runs next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace lapidary::generate {

// Runs that have a place, and those that wait for one in the order of their coming. A run must
// leave before it is gone.
template <typename Run>
class Scheduler {
 public:
  explicit Scheduler(uint32_t places) : places_(places) {}

  // Waits, behind all that wait.
  void arrive(Run& run) { waiting_.push_back(&run); }
  // Gives the run that waits longest a place; null where none waits or there is no place.
  Run* admit() {
    if (!can_admit()) return nullptr;
    Run* const run = waiting_.front();
    waiting_.pop_front();
    active_.push_back(run);
    return run;
  }
  bool can_admit() const { return !waiting_.empty() && active_.size() < places_; }
  // Of those that have a place or wait.
  void leave(Run& run) {
    std::erase(active_, &run);
    std::erase(waiting_, &run);
  }
  // The first `count` of those with a place come after the others from now on.
  void rotate(size_t count) {
    if (count < active_.size())
      std::ranges::rotate(active_, active_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  // In the order in which their turn comes.
  std::span<Run* const> active() const { return active_; }
  const std::deque<Run*>& waiting() const { return waiting_; }
  bool empty() const { return active_.empty() && waiting_.empty(); }

 private:
  uint32_t places_;
  std::vector<Run*> active_;
  std::deque<Run*> waiting_;
};

// How many tokens of each prompt run in the next batch of `room`, so that none waits for a longer
// one: as many of each as of any other that has more. pending: what of each has not run.
std::vector<uint32_t> share_out(std::span<const uint32_t> pending, uint32_t room);

}  // namespace lapidary::generate
