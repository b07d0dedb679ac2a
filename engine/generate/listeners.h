// Turns the tokens of a run into events for the caller: plain text, or a chat reply's text,
// thinking and tool calls.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/chat/reply_parser.h"
#include "engine/generate/session.h"
#include "engine/generate/stop.h"

namespace lapidary::generate {

using EmitEvent = std::function<void(const Json& event)>;

// Emits {"type": "prefill" | "token" | "text", …}.
class TextListener : public Listener {
 public:
  // The tokenizer must outlive the listener.
  TextListener(const tokenizer::Tokenizer& tokenizer, std::vector<std::string> stops,
               EmitEvent emit)
      : tokenizer_(tokenizer),
        decoder_(tokenizer),
        stops_(std::move(stops)),
        emit_(std::move(emit)) {}

  void on_prefill(uint32_t processed, uint32_t total, uint32_t cached) override;
  bool on_token(const ChosenToken& token) override;
  // The run is over: what was held back comes out.
  virtual void finish();
  // The stop string that ended the run; empty if none did.
  const std::string& stopped_by() const { return stops_.matched(); }

 protected:
  void emit_token(const ChosenToken& token);
  void emit_text(std::string_view text);
  void emit(const Json& event) { emit_(event); }

  const tokenizer::Tokenizer& tokenizer_;
  tokenizer::StreamDecoder decoder_;
  StopMatcher stops_;

 private:
  EmitEvent emit_;
};

// Adds {"type": "thinking" | "tool_call", …}. Stop strings act on the answer's text alone.
class ChatListener : public TextListener {
 public:
  ChatListener(const tokenizer::Tokenizer& tokenizer, std::vector<std::string> stops,
               EmitEvent emit, chat::ReplyOptions options)
      : TextListener(tokenizer, std::move(stops), std::move(emit)), parser_(std::move(options)) {}

  bool on_token(const ChosenToken& token) override;
  void finish() override;
  uint32_t tool_calls() const { return tool_calls_; }

 private:
  void report();

  chat::ReplyParser parser_;
  std::vector<chat::ReplyEvent> events_;
  uint32_t tool_calls_ = 0;
};

// Says which token comes, {"type": "kept", id}, before the other listener says what it means.
class KeepingListener : public Listener {
 public:
  // Both must outlive it.
  KeepingListener(Listener& listener, const EmitEvent& emit) : listener_(listener), emit_(emit) {}
  void on_prefill(uint32_t processed, uint32_t total, uint32_t cached) override {
    listener_.on_prefill(processed, total, cached);
  }
  bool on_token(const ChosenToken& token) override {
    emit_({{"type", "kept"}, {"id", token.id}});
    return listener_.on_token(token);
  }

 private:
  Listener& listener_;
  const EmitEvent& emit_;
};

}  // namespace lapidary::generate
