// UTF-8 stepping for the tokenizer: strict (no overlong forms, no surrogates, nothing past
// U+10FFFF).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lapidary::tokenizer {

struct Utf8Step {
  size_t length;  // bytes of the code point; 1 for a byte that begins none
  bool valid;
  // Not valid, but the bytes at hand are a proper beginning of a code point that the text cuts off.
  bool incomplete;
};

// Looks at the code point that begins at text[0]; `text` is not empty.
inline Utf8Step utf8_step(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                        : lead >= 0xE0 && lead <= 0xEF ? 3
                        : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                       : 0;
  if (length == 0) return {1, false, false};
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {1, false, true};
    unsigned char low = 0x80, high = 0xBF;
    if (i == 1) {  // the second byte rules out overlong forms, surrogates and values past U+10FFFF
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (byte(i) < low || byte(i) > high) return {1, false, false};
  }
  return {length, true, false};
}

// The code point that `text` is: its bytes and no others, valid.
inline uint32_t utf8_code_point(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (text.size() == 1) return lead;
  uint32_t code = lead & (0xFFu >> (text.size() + 1));
  for (const char c : text.substr(1)) code = code << 6 | (static_cast<unsigned char>(c) & 0x3F);
  return code;
}

}  // namespace lapidary::tokenizer
