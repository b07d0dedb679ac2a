// Fuzzes the schema compiler and the matcher: any JSON is compiled or refused with a message, in
// bounded work, and from what compiles the first bytes that may come lead to a text that is JSON.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "engine/base/json.h"
#include "engine/grammar/matcher.h"
#include "engine/grammar/reply_format.h"

using namespace lapidary;
using namespace lapidary::grammar;

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

// The first byte steers which bytes are tried first, the rest is the schema.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t steer = data[0];
  const auto schema = parse_json({reinterpret_cast<const char*>(data) + 1, size - 1}, "schema");
  if (!schema) return 0;
  const chat::ToolDeclaration tool{.name = "f", .parameters = *schema};
  const auto forced = compile({.must_call = {tool}});
  check(forced || !forced.error().message.empty());
  auto automaton = compile({.format = *schema});
  if (!automaton) {
    check(!automaton.error().message.empty());
    return 0;
  }
  Matcher state(std::make_shared<const Automaton>(*std::move(automaton)));
  std::string text;
  constexpr std::string_view kClosing = "\"}]:,0";
  while (!state.complete() && text.size() < 256) {
    bool found = false;
    for (int i = 0; i < 262 && !found; ++i) {
      const char c =
          i < 6 ? kClosing[static_cast<size_t>((i + steer) % 6)] : static_cast<char>(i - 6 + steer);
      found = state.accept({&c, 1});
      if (found) text.push_back(c);
    }
    check(found);
  }
  if (state.complete()) check(parse_json(text, "reply", 1000).has_value());
  return 0;
}
