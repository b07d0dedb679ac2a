#include "engine/generate/listeners.h"

namespace lapidary::generate {

void TextListener::on_prefill(uint32_t processed, uint32_t total, uint32_t cached) {
  emit({{"type", "prefill"}, {"processed", processed}, {"total", total}, {"cached", cached}});
}

void TextListener::emit_token(const ChosenToken& token) {
  if (token.top.empty()) return;
  Json top = Json::array();
  for (const Candidate& candidate : token.top) {
    top.push_back({{"id", candidate.id},
                   {"text", tokenizer_.decode(std::span(&candidate.id, 1), true)},
                   {"logprob", candidate.logit}});
  }
  emit({{"type", "token"},
        {"id", token.id},
        {"text", tokenizer_.decode(std::span(&token.id, 1), true)},
        {"logprob", token.logprob},
        {"top", std::move(top)}});
}

void TextListener::emit_text(std::string_view text) {
  const std::string shown = stops_.push(text);
  if (!shown.empty()) emit({{"type", "text"}, {"text", shown}});
}

bool TextListener::on_token(const ChosenToken& token) {
  emit_token(token);
  emit_text(decoder_.push(token.id));
  return stopped_by().empty();
}

void TextListener::finish() {
  emit_text(decoder_.flush());
  const std::string rest = stops_.flush();
  if (!rest.empty()) emit({{"type", "text"}, {"text", rest}});
}

bool ChatListener::on_token(const ChosenToken& token) {
  emit_token(token);
  if (tokenizer_.is_special(token.id)) {
    parser_.push(decoder_.flush(), false, events_);
    parser_.push(tokenizer_.token_text(token.id), true, events_);
  } else {
    parser_.push(decoder_.push(token.id), false, events_);
  }
  report();
  return stopped_by().empty();
}

void ChatListener::report() {
  for (chat::ReplyEvent& event : events_) {
    if (!stopped_by().empty()) break;
    switch (event.kind) {
      case chat::ReplyEventKind::kText:
        emit_text(event.text);
        break;
      case chat::ReplyEventKind::kThinking:
        emit({{"type", "thinking"}, {"text", event.text}});
        break;
      case chat::ReplyEventKind::kToolCall:
        ++tool_calls_;
        emit({{"type", "tool_call"},
              {"name", event.call.name},
              {"arguments", std::move(event.call.arguments)}});
        break;
    }
  }
  events_.clear();
}

void ChatListener::finish() {
  if (stopped_by().empty()) {
    parser_.push(decoder_.flush(), false, events_);
    parser_.finish(events_);
    report();
  }
  TextListener::finish();
}

}  // namespace lapidary::generate
