// Writes the pieces of a prompt, and JSON values and tool declarations in Gemma 4's notation
// (gemma4.md §6.1): {key:value}, keys bare and sorted, strings between <|"|> tokens without
// escaping. Internal to chat.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/chat/message.h"
#include "engine/chat/render.h"

namespace lapidary::chat {

class PromptWriter {
 public:
  // The template's own text, where special tokens are recognised.
  void tag(std::string_view text) { append(text, true); }
  // The place of a medium; one with a name stands in a piece of its own.
  void medium(const ContentPart& part);
  // Anybody else's text, which stays plain.
  void text(std::string_view text) { append(text, false); }
  // Whether what follows is Piece::learn.
  void learn(bool on) { learn_ = on; }
  void quoted(std::string_view text);
  // quote_keys: as inside declarations; arguments and responses have bare keys.
  void value(const Json& value, bool quote_keys);
  // k:v,k:v without the braces.
  void members(const Json& object, bool quote_keys);
  void declaration(const ToolDeclaration& tool);
  std::vector<Piece> take() { return std::move(pieces_); }

 private:
  void append(std::string_view text, bool special);
  void type(const Json* type);
  void quoted_list(const Json& list);
  void property(const Json& schema);
  void properties(const Json& object, bool skip_standard_keys);
  void items(const Json& items);

  std::vector<Piece> pieces_;
  bool learn_ = false;
};

// Python's str(float), which the template's printing follows: 1.5, 2.0, 1e-05, 1e+16.
std::string format_float(double value);

}  // namespace lapidary::chat
