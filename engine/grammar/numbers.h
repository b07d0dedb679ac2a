// Numbers within bounds, digit by digit.
#pragma once

#include <cstdint>

#include "engine/grammar/automaton.h"

namespace lapidary::grammar {

// Integers are written with up to 15 digits: every program reads them exactly.
inline constexpr int64_t kMaxInteger = 999'999'999'999'999;
// Bounds of numbers with fractions; 15 digits are left to both parts together, so that no rounding
// takes a number across its bound.
inline constexpr int64_t kMaxBound = 999'999'999'999;

struct Bounds {
  int64_t low = 0, high = 0;
  // Whether a bound itself is none of them; for numbers with fractions only.
  bool above_low = false, below_high = false;
};

// Integers from low to high, both within ±kMaxInteger; low <= high.
uint32_t integer(Builder& builder, uint32_t from, int64_t low, int64_t high);
// Numbers with or without a fraction, within ±kMaxBound; no exponent. low < high, or equal and both
// included.
uint32_t number(Builder& builder, uint32_t from, const Bounds& bounds);
// Any number: 15 digits, as many behind the point, an exponent of two.
uint32_t number(Builder& builder, uint32_t from);

}  // namespace lapidary::grammar
