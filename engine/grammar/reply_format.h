// What a whole reply of the model may be, its tags included: a thought or none, then an answer in a
// format, or calls of tools.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/chat/message.h"
#include "engine/grammar/automaton.h"

namespace lapidary::grammar {

struct ReplyFormat {
  // The answer: null for none asked for, "json" for any object, or a JSON schema.
  Json format;
  // With a format: the model may call tools instead of answering.
  bool may_call = false;
  // Tools of which one must be called, with arguments that satisfy its parameters; then there is no
  // answer. Empty: none must.
  std::vector<chat::ToolDeclaration> must_call;
  // With must_call: more calls may follow the first.
  bool many_calls = false;
  // The reply may begin with a thought; in_thought: it begins inside one.
  bool may_think = false;
  bool in_thought = false;

  // Whether it says anything at all.
  bool constrains() const { return !format.is_null() || !must_call.empty(); }
};

// kInvalidArgument, kUnsupported: what is wrong with the format or with a tool's parameters, by
// keyword and path.
Result<Automaton> compile(const ReplyFormat& reply);

}  // namespace lapidary::grammar
