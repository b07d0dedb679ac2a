// Views over raw little-endian bytes, and checked arithmetic for sizes that come from outside.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace lapidary {

static_assert(std::endian::native == std::endian::little, "GGUF bytes are read in place");

using Bytes = std::span<const std::byte>;

// Reads a T at byte `offset`; the caller has checked that it lies inside.
template <typename T>
T load(Bytes bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? std::nullopt : std::optional(sum);
}
inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t product;
  return __builtin_mul_overflow(a, b, &product) ? std::nullopt : std::optional(product);
}
// a rounded up to a multiple of `unit` (not zero); wraps when a is within `unit` of 2^64.
constexpr uint64_t round_up(uint64_t a, uint64_t unit) { return (a + unit - 1) / unit * unit; }
constexpr uint32_t div_ceil(uint32_t a, uint32_t b) { return a / b + (a % b != 0 ? 1u : 0u); }

// IEEE half <-> single, exact one way and round-to-nearest-even the other, subnormals included.
float half_to_float(uint16_t half);
uint16_t float_to_half(float value);
inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

}  // namespace lapidary
