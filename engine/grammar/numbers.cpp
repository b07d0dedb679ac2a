#include "engine/grammar/numbers.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/text.h"

namespace lapidary::grammar {
namespace {

constexpr uint32_t kDigits = 15;

// Whole numbers from 0 on within bounds.
class Magnitudes {
 public:
  Magnitudes(Builder& builder, uint32_t to) : builder_(builder), any_{to} {}

  // low <= high
  void between(uint32_t from, int64_t low, int64_t high) {
    // Numbers of one length at a time.
    for (int64_t first = 0, last = 9; first <= high; first = last + 1, last = last * 10 + 9) {
      if (last < low) continue;
      same_length(from, cat(std::max(first, low)), cat(std::min(last, high)));
    }
  }

 private:
  // The state from which any `count` digits lead to the end.
  uint32_t any(size_t count) {
    while (any_.size() <= count) {
      const uint32_t state = builder_.state();
      builder_.bytes(state, '0', '9', any_.back());
      any_.push_back(state);
    }
    return any_[count];
  }
  // Digits from `from` on that are at least `low` and at most `high`, which are equally long.
  void same_length(uint32_t from, std::string_view low, std::string_view high) {
    const size_t rest = low.size() - 1;
    const bool open_low = low.substr(1).find_first_not_of('0') == std::string_view::npos;
    const bool open_high = high.substr(1).find_first_not_of('9') == std::string_view::npos;
    if (low[0] == high[0] && !(open_low && open_high)) {
      return same_length(builder_.byte(from, static_cast<uint8_t>(low[0])), low.substr(1),
                         high.substr(1));
    }
    char first = low[0];
    char last = high[0];
    if (!open_low) {
      same_length(builder_.byte(from, static_cast<uint8_t>(first++)), low.substr(1),
                  std::string(rest, '9'));
    }
    if (!open_high) {
      same_length(builder_.byte(from, static_cast<uint8_t>(last--)), std::string(rest, '0'),
                  high.substr(1));
    }
    if (first <= last)
      builder_.bytes(from, static_cast<uint8_t>(first), static_cast<uint8_t>(last), any(rest));
  }

  Builder& builder_;
  std::vector<uint32_t> any_;
};

void magnitudes(Builder& builder, uint32_t from, int64_t low, int64_t high, uint32_t to) {
  if (low <= high) Magnitudes(builder, to).between(from, low, high);
}

// A point and 1 to `most` digits; with `some`, not all of them 0.
void fraction(Builder& builder, uint32_t from, uint32_t most, bool some, uint32_t to) {
  uint32_t zeros = builder.byte(from, '.');
  uint32_t others = zeros;  // where a digit other than 0 has been
  for (uint32_t i = 0; i < most; ++i) {
    const uint32_t next_zeros = builder.state();
    const uint32_t next_others = builder.state();
    builder.bytes(zeros, '0', '0', some ? next_zeros : next_others);
    builder.bytes(zeros, '1', '9', next_others);
    if (others != zeros) builder.bytes(others, '0', '9', next_others);
    builder.skip(next_others, to);
    zeros = some ? next_zeros : next_others;
    others = next_others;
  }
}

// Numbers from 0 on, with fractions of up to `digits` digits.
void fractions(Builder& builder, uint32_t from, const Bounds& bounds, uint32_t digits,
               uint32_t to) {
  const auto& [low, high, above_low, below_high] = bounds;
  const uint32_t whole = builder.state();
  magnitudes(builder, from, above_low ? low + 1 : low, high - 1, whole);
  builder.skip(whole, to);
  fraction(builder, whole, digits, /*some=*/false, to);
  if (above_low && low < high) {
    const uint32_t lowest = builder.state();
    magnitudes(builder, from, low, low, lowest);
    fraction(builder, lowest, digits, /*some=*/true, to);
  }
  if (below_high) return;
  const uint32_t highest = builder.state();
  magnitudes(builder, from, high, high, highest);
  builder.skip(highest, to);
  uint32_t zeros = builder.byte(highest, '.');
  for (uint32_t i = 0; i < digits; ++i) {
    zeros = builder.byte(zeros, '0');
    builder.skip(zeros, to);
  }
}

}  // namespace

uint32_t integer(Builder& builder, uint32_t from, int64_t low, int64_t high) {
  const uint32_t to = builder.state();
  magnitudes(builder, from, std::max<int64_t>(low, 0), high, to);
  if (low < 0) magnitudes(builder, builder.byte(from, '-'), std::max<int64_t>(-high, 1), -low, to);
  return to;
}

uint32_t number(Builder& builder, uint32_t from, const Bounds& bounds) {
  const auto& [low, high, above_low, below_high] = bounds;
  const auto length = static_cast<uint32_t>(cat(std::max(std::abs(low), std::abs(high))).size());
  const uint32_t digits = kDigits - length;
  const uint32_t to = builder.state();
  if (high > 0 || (high == 0 && !below_high)) {
    fractions(builder, from,
              {.low = std::max<int64_t>(low, 0),
               .high = high,
               .above_low = above_low && low >= 0,
               .below_high = below_high},
              digits, to);
  }
  if (low < 0) {
    // Not -0, which some take for a number below 0.
    fractions(builder, builder.byte(from, '-'),
              {.low = std::max<int64_t>(-high, 0),
               .high = -low,
               .above_low = high >= 0 || below_high,
               .below_high = above_low},
              digits, to);
  }
  return to;
}

uint32_t number(Builder& builder, uint32_t from) {
  const uint32_t sign = builder.state();
  builder.skip(from, sign);
  builder.bytes(from, '-', '-', sign);
  const uint32_t whole = builder.state();
  magnitudes(builder, sign, 0, kMaxInteger, whole);
  const uint32_t mantissa = builder.state();
  builder.skip(whole, mantissa);
  fraction(builder, whole, kDigits, /*some=*/false, mantissa);
  const uint32_t to = builder.state();
  builder.skip(mantissa, to);
  const uint32_t exponent = builder.state();
  builder.bytes(mantissa, 'e', 'e', exponent);
  builder.bytes(mantissa, 'E', 'E', exponent);
  const uint32_t digits = builder.state();
  builder.skip(exponent, digits);
  builder.bytes(exponent, '+', '+', digits);
  builder.bytes(exponent, '-', '-', digits);
  const uint32_t one = builder.state();
  builder.bytes(digits, '0', '9', one);
  builder.skip(one, to);
  builder.bytes(one, '0', '9', to);
  return to;
}

}  // namespace lapidary::grammar
