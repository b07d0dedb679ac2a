#include "engine/generate/scheduler.h"

#include <numeric>

namespace lapidary::generate {

std::vector<uint32_t> share_out(std::span<const uint32_t> pending, uint32_t room) {
  std::vector<uint32_t> shares(pending.size());
  std::vector<size_t> order(pending.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return pending[i]; });
  // What the shorter ones do not need of an even part is for the others.
  auto left = static_cast<uint32_t>(pending.size());
  uint32_t part = 0;
  bool even = false;
  for (const size_t i : order) {
    if (!even) {
      part = room / left;
      even = pending[i] > part;
    }
    shares[i] = std::min(pending[i], part);
    room -= shares[i];
    --left;
  }
  // What does not divide is for those that came first.
  for (size_t i = 0; i < shares.size() && room > 0; ++i) {
    const uint32_t more = std::min(pending[i] - shares[i], room);
    shares[i] += more;
    room -= more;
  }
  return shares;
}

}  // namespace lapidary::generate
