#include "engine/dataset/record.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "engine/base/text.h"

namespace lapidary::dataset {
namespace {

using chat::Role;

constexpr std::array<std::string_view, kShapes> kNames = {"messages", "prompt/completion", "Alpaca",
                                                          "ShareGPT", "text"};
constexpr int kMaxDepth = 64;

template <typename... Parts>
std::unexpected<Error> invalid(const Parts&... parts) {
  return fail(ErrorCode::kInvalidFormat, cat(parts...));
}

// The string under `key`; empty where the key is absent or null and need not be there.
Result<std::string> text_of(const Json& object, std::string_view key, bool required = true) {
  const Json* member = json_member(object, key);
  if (member == nullptr || member->is_null()) {
    if (!required) return std::string();
    return invalid("'", key, "' is missing");
  }
  if (!member->is_string()) return invalid("'", key, "' is not a string");
  return member->get<std::string>();
}

Json message(std::string_view role, std::string content) {
  return {{"role", role}, {"content", std::move(content)}};
}

// tools: a list, or a string of one, as formats of tables have it.
Result<Json> tools_of(const Json& object) {
  const Json* tools = json_member(object, "tools");
  if (tools == nullptr) return Json();
  if (!tools->is_string()) return *tools;
  const auto& text = tools->get_ref<const std::string&>();
  if (text.empty()) return Json();
  return parse_json(text, "tools", kMaxDepth);
}

// The messages from `first` on are to be learnt where an assistant wrote them.
Result<Record> conversation_of(Shape shape, const Json& messages, const Json& object,
                               size_t first = 0) {
  Record record{.shape = shape};
  TRY(const Json tools, tools_of(object));
  TRY(record.conversation, chat::parse_messages(messages, tools));
  for (size_t i = 0; i < messages.size(); ++i) {
    chat::Message& parsed = record.conversation.messages[i];
    if (std::ranges::any_of(parsed.content, [](const chat::ContentPart& part) {
          return part.kind != chat::PartKind::kText;
        })) {
      return fail(ErrorCode::kUnsupported,
                  cat("message ", i, ": images, audio and video cannot be learnt from"));
    }
    parsed.learn = parsed.role == Role::kAssistant && i >= first;
    const Json* weight = json_member(messages[i], "weight");
    if (weight == nullptr || weight->is_null()) continue;
    if (*weight != 0 && *weight != 1) return invalid("message ", i, ": its weight is not 0 or 1");
    if (*weight == 0) parsed.learn = false;
  }
  return record;
}

// A list of messages that may begin with the object's own system text.
Result<Json> opening(const Json& object) {
  Json messages = Json::array();
  TRY(std::string system, text_of(object, "system", false));
  if (!system.empty()) messages.push_back(message("system", std::move(system)));
  return messages;
}

Result<Record> prompt_completion(const Json& object, bool chat) {
  const Json* prompt = json_member(object, "prompt");
  const Json* completion = json_member(object, "completion");
  TRY(Json messages, opening(object));
  if (prompt->is_array() && completion != nullptr && completion->is_array()) {
    messages.insert(messages.end(), prompt->begin(), prompt->end());
    const size_t first = messages.size();
    messages.insert(messages.end(), completion->begin(), completion->end());
    return conversation_of(Shape::kPromptCompletion, messages, object, first);
  }
  TRY(std::string question, text_of(object, "prompt"));
  TRY(std::string answer, text_of(object, "completion"));
  if (chat) {
    messages.push_back(message("user", std::move(question)));
    messages.push_back(message("assistant", std::move(answer)));
    return conversation_of(Shape::kPromptCompletion, messages, object);
  }
  if (!messages.empty()) return invalid("'system' needs the chat template");
  return Record{.shape = Shape::kPromptCompletion,
                .plain = true,
                .prompt = std::move(question),
                .text = std::move(answer)};
}

Result<Record> alpaca(const Json& object) {
  TRY(Json messages, opening(object));
  TRY(std::string instruction, text_of(object, "instruction"));
  TRY(const std::string input, text_of(object, "input", false));
  TRY(std::string output, text_of(object, "output"));
  if (!input.empty()) instruction = cat(instruction, "\n\n", input);
  messages.push_back(message("user", std::move(instruction)));
  messages.push_back(message("assistant", std::move(output)));
  return conversation_of(Shape::kAlpaca, messages, object);
}

// Who speaks, as ShareGPT's descendants write it. "call": an assistant's call, written as JSON.
std::string_view share_gpt_role(std::string_view from) {
  constexpr std::pair<std::string_view, std::string_view> kRoles[] = {
      {"human", "user"},        {"user", "user"},
      {"gpt", "assistant"},     {"assistant", "assistant"},
      {"model", "assistant"},   {"chatgpt", "assistant"},
      {"system", "system"},     {"tool", "tool"},
      {"observation", "tool"},  {"function_response", "tool"},
      {"function_call", "call"}};
  for (const auto& [name, role] : kRoles) {
    if (name == from) return role;
  }
  return {};
}

Result<Json> share_gpt_message(const Json& turn, size_t index) {
  if (json_member(turn, "role") != nullptr) return turn;  // the same list with messages' keys
  const std::string where = cat("conversations ", index);
  const Json* from = json_member(turn, "from");
  const Json* value = json_member(turn, "value");
  if (from == nullptr || !from->is_string() || value == nullptr || !value->is_string()) {
    return invalid(where, ": no strings 'from' and 'value'");
  }
  const auto& name = from->get_ref<const std::string&>();
  const std::string_view role = share_gpt_role(name);
  if (role.empty()) {
    return invalid(where, ": '", printable(name), "' is none of human, gpt, system, tool");
  }
  Json out = message(role, value->get<std::string>());
  if (role == "call") {
    TRY(Json call, parse_json(value->get_ref<const std::string&>(), where, kMaxDepth));
    if (!call.is_array()) call = Json::array({std::move(call)});
    out = {{"role", "assistant"}, {"tool_calls", std::move(call)}};
  }
  for (const std::string_view key : {"weight", "reasoning_content", "tool_calls", "name"}) {
    if (const Json* member = json_member(turn, key)) out[std::string(key)] = *member;
  }
  return out;
}

Result<Record> share_gpt(const Json& object, const Json& conversations) {
  TRY(Json messages, opening(object));
  if (!conversations.is_array()) return invalid("'conversations' is not a list");
  for (size_t i = 0; i < conversations.size(); ++i) {
    TRY(Json turn, share_gpt_message(conversations[i], i));
    messages.push_back(std::move(turn));
  }
  return conversation_of(Shape::kShareGpt, messages, object);
}

}  // namespace

std::string_view shape_name(Shape shape) { return kNames[static_cast<size_t>(shape)]; }

Result<Record> parse_record(std::string_view line, bool chat) {
  TRY(const Json object, parse_json(line, "the line", kMaxDepth));
  if (object.is_array()) return invalid("a list; each line holds one object (JSON Lines)");
  if (!object.is_object()) return invalid("not a JSON object");
  const auto has = [&](std::string_view key) {
    const Json* member = json_member(object, key);
    return member != nullptr && !member->is_null();
  };
  if (has("messages")) return conversation_of(Shape::kMessages, object["messages"], object);
  if (has("conversations")) return share_gpt(object, object["conversations"]);
  if (has("prompt")) return prompt_completion(object, chat);
  if (has("instruction")) return alpaca(object);
  if (has("text")) {
    TRY(std::string text, text_of(object, "text"));
    return Record{.shape = Shape::kText, .plain = true, .text = std::move(text)};
  }
  return invalid(
      "no shape that is known: messages; prompt and completion; instruction and output; "
      "conversations; text");
}

}  // namespace lapidary::dataset
