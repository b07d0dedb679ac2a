// How values are written: as JSON, or in the notation of Gemma's tool calls (gemma4.md §6.1), where
// strings stand between <|"|> without escapes, keys are bare, and nothing is spaced.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/json.h"
#include "engine/grammar/automaton.h"

namespace lapidary::grammar {

enum class Syntax : uint8_t { kJson, kCall };

class Notation {
 public:
  // The builder must outlive the notation.
  Notation(Builder& builder, Syntax syntax) : builder_(builder), syntax_(syntax) {}

  Builder& builder() { return builder_; }
  bool is_call() const { return syntax_ == Syntax::kCall; }

  // The text of a value that is known; keys keep their order.
  std::string literal(const Json& value) const;
  std::string key(std::string_view name) const;
  // What begins and ends a string.
  uint32_t quote(uint32_t from) {
    return builder_.byte(from, is_call() ? kQuoteByte : static_cast<uint8_t>('"'));
  }
  // One character of a string: any, in any of its spellings; or one of `normal`, escaped only where
  // it must be.
  uint32_t character(uint32_t from);
  uint32_t character(uint32_t from, const CodePoints& normal);
  // Any number of characters.
  uint32_t characters(uint32_t from);
  // A string of any characters.
  uint32_t string(uint32_t from);
  // A key that is none of `taken`.
  uint32_t other_key(uint32_t from, const std::vector<std::string>& taken);
  // Where JSON may be spaced: nothing, a space, or a line break and up to kMaxIndent spaces or
  // tabs.
  uint32_t space(uint32_t from);

 private:
  void append(std::string& out, const Json& value) const;
  void append_string(std::string& out, std::string_view text) const;
  void escapes(uint32_t from, uint32_t to);
  uint32_t digits(uint32_t from, std::string_view first, uint32_t rest);

  Builder& builder_;
  Syntax syntax_;
  // Rules that are made when they are first called.
  std::optional<uint32_t> any_, space_;
  std::map<CodePoints, uint32_t> classes_;
};

}  // namespace lapidary::grammar
