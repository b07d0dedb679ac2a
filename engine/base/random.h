// Random numbers that are the same everywhere: PCG32 (XSH-RR 64/32, O'Neill 2014), whole-number
// arithmetic alone. Not for secrets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace lapidary {

class Random {
 public:
  // Equal seeds give equal numbers; streams of one seed (epochs, say) are independent of each
  // other.
  explicit Random(uint64_t seed, uint64_t stream = 0) : increment_(stream << 1 | 1) {
    next();
    state_ += seed;
    next();
  }

  // Uniform over all 32 bits.
  uint32_t next() {
    const uint64_t before = state_;
    state_ = before * 6364136223846793005u + increment_;
    const auto mixed = static_cast<uint32_t>((before >> 18 ^ before) >> 27);
    const auto turn = static_cast<uint32_t>(before >> 59);
    return mixed >> turn | mixed << ((32 - turn) & 31);
  }

  // Uniform over [0, bound), without bias (Lemire 2019); 0 where bound is 0.
  uint32_t below(uint32_t bound) {
    if (bound == 0) return 0;
    const uint32_t threshold = (0u - bound) % bound;
    for (;;) {
      const uint64_t product = uint64_t{next()} * bound;
      if (static_cast<uint32_t>(product) >= threshold) return static_cast<uint32_t>(product >> 32);
    }
  }

  // Fisher and Yates: every order of fewer than 2^32 items is equally likely.
  template <typename T>
  void shuffle(std::span<T> items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[below(static_cast<uint32_t>(i))]);
    }
  }

 private:
  uint64_t state_ = 0;
  uint64_t increment_;
};

}  // namespace lapidary
