#include "engine/chat/render.h"

#include <optional>

#include "engine/base/text.h"
#include "engine/chat/prompt_writer.h"
#include "engine/chat/tags.h"

namespace lapidary::chat {
namespace {

constexpr std::string_view kThoughtOpen = "<|channel>thought\n";
constexpr size_t kNone = SIZE_MAX;

// The length of the whitespace character (Python's notion, as the template's trim) at the start of
// `text`, or 0.
size_t whitespace_at(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned c = byte(0);
  if (c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F)) return 1;
  if (c == 0xC2 && (byte(1) == 0x85 || byte(1) == 0xA0)) return 2;
  if (c < 0xE1 || c > 0xE3) return 0;
  const unsigned code = (c & 0xF) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  const bool space = code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
                     code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
  return space && text.size() >= 3 ? 3 : 0;
}

std::string_view trim(std::string_view text) {
  while (const size_t n = whitespace_at(text)) text.remove_prefix(n);
  for (;;) {
    size_t n = 0;
    for (size_t length = 1; length <= 3 && length <= text.size() && n == 0; ++length) {
      if (whitespace_at(text.substr(text.size() - length)) == length) n = length;
    }
    if (n == 0) return text;
    text.remove_suffix(n);
  }
}

// Assistant text without <|channel>…<channel|> spans, as the template removes them: cut at each
// close, and each part at its first open.
std::string strip_thoughts(std::string_view text) {
  std::string out;
  for (;;) {
    const size_t close = text.find(kChannelClose);
    const std::string_view part = text.substr(0, close);
    out.append(part.substr(0, part.find(kChannelOpen)));
    if (close == std::string_view::npos) return out;
    text.remove_prefix(close + kChannelClose.size());
  }
}

class Renderer {
 public:
  Renderer(const Conversation& conversation, const RenderOptions& options)
      : messages_(conversation.messages), tools_(conversation.tools), options_(options) {}

  Result<std::vector<Piece>> run() {
    TRY_VOID(check());
    writer_.tag(kBos);
    render_system_turn();
    for (size_t i = first_; i < messages_.size(); ++i) {
      if (messages_[i].role == Role::kUser) last_user_ = i;
    }
    for (size_t i = first_; i < messages_.size(); ++i) {
      if (messages_[i].role != Role::kTool) render_message(i);
    }
    if (options_.add_generation_prompt && !options_.continue_final_message) open_reply();
    return writer_.take();
  }

 private:
  enum class Block { kOther, kCall, kResponse };

  Status check() const {
    if (messages_.empty()) return fail(ErrorCode::kInvalidArgument, "messages: the list is empty");
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (messages_[i].role != Role::kTool) continue;
      const size_t caller = previous_turn(i, 0);
      if (caller == kNone || messages_[caller].tool_calls.empty()) {
        return fail(ErrorCode::kInvalidArgument,
                    cat("message ", i,
                        ": a tool result must follow an assistant's message with tool_calls"));
      }
    }
    const Message& last = messages_.back();
    if (options_.continue_final_message &&
        (last.role != Role::kAssistant || !last.tool_calls.empty() ||
         !last.tool_responses.empty())) {
      return fail(
          ErrorCode::kInvalidArgument,
          "continue_final_message: the last message must be an assistant's, without tool calls");
    }
    return {};
  }

  // The nearest message before / after `index` that is not a tool's, or kNone.
  size_t previous_turn(size_t index, size_t first) const {
    while (index > first) {
      if (messages_[--index].role != Role::kTool) return index;
    }
    return kNone;
  }
  size_t next_turn(size_t index) const {
    while (++index < messages_.size()) {
      if (messages_[index].role != Role::kTool) return index;
    }
    return kNone;
  }

  void render_system_turn() {
    const Message& lead = messages_[0];
    const bool leads = lead.role == Role::kSystem || lead.role == Role::kDeveloper;
    if (leads) first_ = 1;
    if (!options_.thinking && tools_.empty() && !leads) return;
    writer_.tag(cat(kTurnOpen, "system\n"));
    if (options_.thinking) writer_.tag(cat(kThink, "\n"));
    if (leads) render_content(lead);
    for (const ToolDeclaration& tool : tools_) writer_.declaration(tool);
    writer_.tag(cat(kTurnClose, "\n"));
  }

  // True when anything but whitespace was written.
  bool render_content(const Message& message) {
    bool any = false;
    for (const ContentPart& part : message.content) {
      if (part.kind != PartKind::kText) {
        writer_.medium(part);
        any = true;
        continue;
      }
      const std::string stripped =
          message.role == Role::kAssistant ? strip_thoughts(part.text) : std::string();
      const std::string_view text = trim(message.role == Role::kAssistant ? stripped : part.text);
      any |= !text.empty();
      writer_.text(text);
    }
    return any;
  }

  void open_response(std::string_view name) {
    // The model ends its calls with the first of these tags; the rest is the host's.
    writer_.tag(kResponseOpen);
    writer_.learn(false);
    writer_.tag("response:");
    writer_.text(name);
    writer_.text("{");
  }
  void close_response() {
    writer_.text("}");
    writer_.tag(kResponseClose);
  }
  void render_response(std::string_view name, const Json& response) {
    open_response(name);
    if (response.is_object()) {
      writer_.members(response, /*quote_keys=*/false);
    } else {
      writer_.text("value:");
      writer_.value(response, /*quote_keys=*/false);
    }
    close_response();
  }

  void render_tool_message(const Message& caller, const Message& tool) {
    std::string_view name = tool.name.empty() ? std::string_view("unknown") : tool.name;
    for (const ToolCall& call : caller.tool_calls) {
      if (!tool.tool_call_id.empty() && call.id == tool.tool_call_id) name = call.name;
    }
    if (tool.has_result) return render_response(name, tool.result);
    std::string text;
    for (const ContentPart& part : tool.content) text.append(part.text);
    render_response(name, Json(text));
    for (const ContentPart& part : tool.content)
      if (part.kind != PartKind::kText) writer_.medium(part);
  }

  // The results of the message's calls: its own, or those of the tool messages right behind it.
  bool render_responses(size_t index) {
    const Message& message = messages_[index];
    for (const ToolResponse& response : message.tool_responses)
      render_response(response.name, response.response);
    if (!message.tool_responses.empty()) return true;
    bool any = false;
    if (message.tool_calls.empty()) return false;
    for (size_t i = index + 1; i < messages_.size() && messages_[i].role == Role::kTool; ++i) {
      render_tool_message(message, messages_[i]);
      any = true;
    }
    return any;
  }

  void render_message(size_t index) {
    const Message& message = messages_[index];
    const bool assistant = message.role == Role::kAssistant;
    const size_t previous = previous_turn(index, first_);
    const bool opens =
        !assistant || previous == kNone || messages_[previous].role != Role::kAssistant;
    if (opens) {
      const std::string_view role = assistant                          ? "model"
                                    : message.role == Role::kUser      ? "user"
                                    : message.role == Role::kDeveloper ? "developer"
                                                                       : "system";
      writer_.tag(cat(kTurnOpen, role, "\n"));
    }
    const bool fresh = last_user_ == kNone || index > last_user_;
    const bool kept = options_.preserve_thinking && !message.tool_calls.empty();
    if (options_.empty_thought_in_last_turn && options_.large_template && !options_.thinking &&
        assistant && opens && fresh && message.reasoning.empty()) {
      writer_.tag(cat(kThoughtOpen, kChannelClose));
    }
    const bool learn = assistant && message.learn;
    writer_.learn(learn);
    if (!message.reasoning.empty() && (fresh || kept)) {
      writer_.tag(kThoughtOpen);
      writer_.text(message.reasoning);
      writer_.tag(cat("\n", kChannelClose));
    }
    last_block_ = Block::kOther;
    for (const ToolCall& call : message.tool_calls) {
      writer_.tag(cat(kCallOpen, "call:"));
      writer_.text(call.name);
      writer_.text("{");
      writer_.members(call.arguments, /*quote_keys=*/false);
      writer_.text("}");
      writer_.tag(kCallClose);
      last_block_ = Block::kCall;
    }
    const bool responded = render_responses(index);
    if (responded) last_block_ = Block::kResponse;
    writer_.learn(learn);
    const bool has_content = render_content(message);

    closed_ = false;
    if (options_.continue_final_message && index + 1 == messages_.size()) {
      writer_.learn(false);
      return;
    }
    const size_t next = next_turn(index);
    if (last_block_ == Block::kCall) {
      writer_.tag(kResponseOpen);
    } else if (next != kNone && messages_[next].role == Role::kAssistant && assistant) {
      // One turn of the model goes on.
    } else if (responded && !has_content && next == kNone) {
      // The model answers the results in the same turn.
    } else {
      // Results and then the end: the template's doing, not the model's.
      if (responded && !has_content) writer_.learn(false);
      writer_.tag(kTurnClose);
      writer_.learn(false);
      writer_.tag("\n");
      closed_ = true;
    }
    writer_.learn(false);
  }

  void open_reply() {
    if (last_block_ == Block::kOther) {
      writer_.tag(cat(kTurnOpen, "model\n"));
      if (options_.large_template && !options_.thinking)
        writer_.tag(cat(kThoughtOpen, kChannelClose));
    } else if (closed_ && !options_.strict_template) {
      writer_.tag(cat(kTurnOpen, "model\n"));
    } else if (last_block_ == Block::kResponse && options_.thinking) {
      writer_.tag(kThoughtOpen);
    }
  }

  const std::vector<Message>& messages_;
  const std::vector<ToolDeclaration>& tools_;
  const RenderOptions& options_;
  PromptWriter writer_;
  size_t first_ = 0;
  size_t last_user_ = kNone;
  Block last_block_ = Block::kOther;
  bool closed_ = false;
};

}  // namespace

Result<std::vector<Piece>> render(const Conversation& conversation, const RenderOptions& options) {
  return Renderer(conversation, options).run();
}

std::string prompt_text(std::span<const Piece> pieces) {
  std::string text;
  for (const Piece& piece : pieces) text.append(piece.text);
  return text;
}

bool ends_in_thinking(std::span<const Piece> pieces) {
  return !pieces.empty() && pieces.back().special && pieces.back().text.ends_with(kThoughtOpen);
}

}  // namespace lapidary::chat
