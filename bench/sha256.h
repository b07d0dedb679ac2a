// SHA-256 (FIPS 180-4) of bytes in memory, for the names of known answers.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include "engine/base/bytes.h"

namespace lapidary::bench {

class Sha256 {
 public:
  Sha256() {
    // The first 32 bits of the fractions of the square and cube roots of the first primes.
    uint32_t found = 0;
    for (uint32_t n = 2; found < k_.size(); ++n) {
      bool prime = true;
      for (uint32_t d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
      if (!prime) continue;
      if (found < state_.size()) state_[found] = fraction(std::sqrt(static_cast<long double>(n)));
      k_[found++] = fraction(std::cbrt(static_cast<long double>(n)));
    }
  }

  void add(Bytes bytes) {
    for (const std::byte b : bytes) {
      block_[used_++] = std::to_integer<uint8_t>(b);
      if (used_ == block_.size()) mix();
    }
    length_ += bytes.size();
  }

  // "sha256:" and 64 hexadecimal digits. The object is spent then.
  std::string finish() {
    const uint64_t bits = length_ * 8;
    const std::byte one{0x80};
    const std::byte zero{0};
    add({&one, 1});
    while (used_ != 56) add({&zero, 1});
    for (int shift = 56; shift >= 0; shift -= 8) {
      const auto b = static_cast<std::byte>(bits >> shift);
      add({&b, 1});
    }
    std::string text = "sha256:";
    for (const uint32_t word : state_) {
      for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
    }
    return text;
  }

 private:
  static uint32_t fraction(long double x) {
    return static_cast<uint32_t>((x - std::floor(x)) * 4294967296.0L);
  }

  void mix() {
    std::array<uint32_t, 64> w{};
    for (size_t i = 0; i < 16; ++i) {
      for (size_t j = 0; j < 4; ++j) w[i] = w[i] << 8 | block_[4 * i + j];
    }
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15];
      const uint32_t b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t x = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                         ((e & f) ^ (~e & g)) + k_[i] + w[i];
      const uint32_t y =
          (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + x;
      d = c;
      c = b;
      b = a;
      a = x + y;
    }
    const std::array<uint32_t, 8> more = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state_[i] += more[i];
    used_ = 0;
  }

  std::array<uint32_t, 8> state_{};
  std::array<uint32_t, 64> k_{};
  std::array<uint8_t, 64> block_{};
  size_t used_ = 0;
  uint64_t length_ = 0;
};

}  // namespace lapidary::bench
