#include "engine/chat/reply_parser.h"

#include <algorithm>

#include "engine/chat/tags.h"
#include "engine/chat/tool_call.h"

namespace lapidary::chat {
namespace {

constexpr std::string_view kThoughtName = "thought\n";
constexpr std::string_view kWhitespace = " \t\n\v\f\r";

}  // namespace

ReplyParser::ReplyParser(ReplyOptions options) : options_(std::move(options)) {
  if (options_.start_in_thinking) state_ = State::kThinking;
}

void ReplyParser::push(std::string_view text, bool special, std::vector<ReplyEvent>& events) {
  if (special) {
    on_tag(text, events);
  } else {
    on_text(text, events);
  }
}

void ReplyParser::finish(std::vector<ReplyEvent>& events) {
  const bool in_text = state_ == State::kText;
  const std::string held = std::exchange(held_, {});
  leave(/*closed_call=*/false, events);
  if (in_text && !held.empty()) events.push_back({ReplyEventKind::kText, held, {}});
}

void ReplyParser::on_text(std::string_view text, std::vector<ReplyEvent>& events) {
  switch (state_) {
    case State::kText:
    case State::kThinking:
      return emit(text, events);
    case State::kChannelName:
      return on_channel_text(text, events);
    case State::kCall:
      for (const char c : text) call_.push_back(c == kQuoteMark ? '?' : c);
      return;
  }
}

// Drops a leading "thought\n"; anything else is thinking already.
void ReplyParser::on_channel_text(std::string_view text, std::vector<ReplyEvent>& events) {
  channel_name_.append(text);
  if (kThoughtName.starts_with(channel_name_) && channel_name_.size() < kThoughtName.size()) return;
  std::string_view thinking = channel_name_;
  if (thinking.starts_with(kThoughtName)) thinking.remove_prefix(kThoughtName.size());
  state_ = State::kThinking;
  emit(thinking, events);
  channel_name_.clear();
}

void ReplyParser::on_tag(std::string_view tag, std::vector<ReplyEvent>& events) {
  if (tag == kQuote) {
    if (state_ == State::kCall) {
      call_.push_back(kQuoteMark);
    } else {
      on_text(tag, events);
    }
  } else if (tag == kChannelOpen) {
    leave(/*closed_call=*/false, events);
    state_ = State::kChannelName;
    skip_space_ = false;
  } else if (tag == kChannelClose) {
    if (state_ == State::kCall) return;
    if (state_ != State::kText) leave(/*closed_call=*/false, events);
    skip_space_ = true;
  } else if (tag == kCallOpen) {
    leave(/*closed_call=*/false, events);
    state_ = State::kCall;
  } else if (tag == kCallClose || tag == kResponseOpen || tag == kTurnClose) {
    if (state_ == State::kCall) leave(tag == kCallClose, events);
  }
  // Any other special token says nothing in a reply.
}

// Ends what is under way, dropping whitespace held back, and goes on with text.
void ReplyParser::leave(bool closed_call, std::vector<ReplyEvent>& events) {
  switch (state_) {
    case State::kText:
    case State::kThinking:
      break;
    case State::kChannelName:
      // An empty channel, or one whose few letters were not the name.
      if (channel_name_ != kThoughtName.substr(0, kThoughtName.size() - 1)) {
        state_ = State::kThinking;
        emit(channel_name_, events);
      }
      channel_name_.clear();
      break;
    case State::kCall:
      end_call(closed_call, events);
      skip_space_ = true;
      break;
  }
  held_.clear();
  state_ = State::kText;
}

void ReplyParser::end_call(bool closed, std::vector<ReplyEvent>& events) {
  const std::string body = std::exchange(call_, {});
  if (body.find_first_not_of(kWhitespace) == std::string::npos) return;
  if (auto calls = parse_tool_calls(body, options_.tools)) {
    for (ToolCall& call : *calls)
      events.push_back({ReplyEventKind::kToolCall, {}, std::move(call)});
    return;
  }
  std::string text(kCallOpen);
  for (const char c : body) {
    if (c == kQuoteMark) {
      text.append(kQuote);
    } else {
      text.push_back(c);
    }
  }
  if (closed) text.append(kCallClose);
  events.push_back({ReplyEventKind::kText, std::move(text), {}});
}

// Text or thinking, whichever is under way, with its trailing whitespace held back.
void ReplyParser::emit(std::string_view text, std::vector<ReplyEvent>& events) {
  if (skip_space_) {
    text.remove_prefix(std::min(text.find_first_not_of(kWhitespace), text.size()));
    if (text.empty()) return;
    skip_space_ = false;
  }
  const size_t last = text.find_last_not_of(kWhitespace);
  if (last == std::string_view::npos) {
    held_.append(text);
    return;
  }
  const bool thinking = state_ == State::kThinking;
  std::string out = std::exchange(held_, std::string(text.substr(last + 1)));
  if (thinking && !options_.thinking) return;
  out.append(text.substr(0, last + 1));
  events.push_back(
      {thinking ? ReplyEventKind::kThinking : ReplyEventKind::kText, std::move(out), {}});
}

}  // namespace lapidary::chat
