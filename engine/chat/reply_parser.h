// The model's reply, token by token, taken apart into text, thinking and tool calls (gemma4.md
// §6.4).
//
// Tags are recognised by token: what the model spells out in ordinary tokens stays text. Malformed
// replies lose nothing: a call that cannot be read comes out as the text it was.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat/message.h"

namespace lapidary::chat {

enum class ReplyEventKind : uint8_t { kText, kThinking, kToolCall };

struct ReplyEvent {
  ReplyEventKind kind = ReplyEventKind::kText;
  std::string text;  // kText, kThinking: what came on, never empty
  ToolCall call;     // kToolCall; its id is empty
};

struct ReplyOptions {
  // False: thinking is dropped, not reported.
  bool thinking = true;
  // The prompt ended inside a thought (ends_in_thinking).
  bool start_in_thinking = false;
  // The conversation's tools; their schemas help to repair calls.
  std::vector<ToolDeclaration> tools;
};

class ReplyParser {
 public:
  explicit ReplyParser(ReplyOptions options = {});

  // One token. special: it is a control or user-defined token and `text` its name ("<tool_call|>");
  // else `text` is decoded text, any part of it, possibly empty. Events are appended to `events`.
  // With a StreamDecoder: before a special token, push its flush() first.
  void push(std::string_view text, bool special, std::vector<ReplyEvent>& events);
  // The reply is over: whatever was held back comes out.
  void finish(std::vector<ReplyEvent>& events);

 private:
  enum class State : uint8_t { kText, kChannelName, kThinking, kCall };

  void on_text(std::string_view text, std::vector<ReplyEvent>& events);
  void on_tag(std::string_view tag, std::vector<ReplyEvent>& events);
  void on_channel_text(std::string_view text, std::vector<ReplyEvent>& events);
  void leave(bool closed_call, std::vector<ReplyEvent>& events);
  void end_call(bool closed, std::vector<ReplyEvent>& events);
  void emit(std::string_view text, std::vector<ReplyEvent>& events);

  ReplyOptions options_;
  State state_ = State::kText;
  std::string held_;          // trailing whitespace, shown only if more text follows
  std::string channel_name_;  // the beginning of a channel, while it may still be "thought\n"
  std::string call_;          // the call so far, quotes marked
  bool skip_space_ = false;   // whitespace after a channel or call is dropped
};

}  // namespace lapidary::chat
