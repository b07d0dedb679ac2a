// Small text helpers: building messages without <format>, whose tables would double the size of the
// .wasm.
#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace lapidary {

namespace text_internal {
inline void append(std::string& out, std::string_view s) { out.append(s); }
inline void append(std::string& out, const char* s) { out.append(s); }
inline void append(std::string& out, char c) { out.push_back(c); }
inline void append(std::string& out, bool b) { out.append(b ? "true" : "false"); }
template <typename T>
  requires((std::integral<T> || std::floating_point<T>) && !std::same_as<T, bool> &&
           !std::same_as<T, char>)
void append(std::string& out, T value) {
  char buffer[40];
  auto [end, ec] = std::to_chars(buffer, buffer + sizeof buffer, value);
  out.append(buffer, end);
}
}  // namespace text_internal

// cat("row ", 3, " of ", n): the parts, one after another; numbers in shortest decimal form.
template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::string out;
  (text_internal::append(out, parts), ...);
  return out;
}

// Text from outside, made safe for a message: at most `limit` bytes, control bytes and broken UTF-8
// shown as '?'.
std::string printable(std::string_view text, size_t limit = 64);

}  // namespace lapidary
