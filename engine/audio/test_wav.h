// WAV files for tests.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"

namespace lapidary::audio {

template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

inline std::string chunk(std::string_view name, const std::string& content) {
  return std::string(name) + raw(static_cast<uint32_t>(content.size())) + content +
         std::string(content.size() % 2, '\0');
}

inline std::string format_chunk(uint16_t tag, uint16_t channels, uint32_t rate, uint16_t bits) {
  const auto block = static_cast<uint16_t>((bits + 7) / 8 * channels);
  return chunk("fmt ",
               raw(tag) + raw(channels) + raw(rate) + raw(rate * block) + raw(block) + raw(bits));
}

inline std::string riff(const std::string& chunks) {
  return "RIFF" + raw(static_cast<uint32_t>(chunks.size() + 4)) + "WAVE" + chunks;
}

template <typename T>
std::string samples_of(std::initializer_list<T> values) {
  std::string out;
  for (const T value : values) out += raw(value);
  return out;
}

inline Bytes bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace lapidary::audio
