// One line of fine-tuning data, in any of the shapes that people have, as a conversation or a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/chat/message.h"

namespace lapidary::dataset {

enum class Shape : uint8_t {
  kMessages,          // {messages: [{role, content, …}], tools?}: OpenAI, Hugging Face
  kPromptCompletion,  // {prompt, completion, system?}: strings, or lists of messages; tools?
  kAlpaca,            // {instruction, input?, output, system?}
  kShareGpt,          // {conversations: [{from, value}], system?, tools?}
  kText,              // {text}
};
inline constexpr size_t kShapes = 5;
std::string_view shape_name(Shape shape);  // "messages", "prompt/completion", …

struct Record {
  Shape shape = Shape::kText;
  // kPromptCompletion of strings when not a conversation, and kText (with an empty prompt): plain.
  bool plain = false;
  std::string prompt, text;  // plain: the text, or completion, is what is learnt
  // Not plain. Message::learn is set on every assistant's message that is to be learnt: all of
  // them, but for a message with the weight 0 (OpenAI's key); of a prompt none.
  chat::Conversation conversation;
};

// line: a JSON object. chat: prompt and completion, where they are strings, are a user's message
// and the reply to it; else plain text one after the other. kInvalidFormat: no JSON, or no shape;
// kInvalidArgument: a message that is unusable (chat::parse_messages); kUnsupported: images, audio
// or video. The message does not name the line.
Result<Record> parse_record(std::string_view line, bool chat);

}  // namespace lapidary::dataset
