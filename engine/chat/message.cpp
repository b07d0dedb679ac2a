#include "engine/chat/message.h"

#include <optional>

#include "engine/base/text.h"

namespace lapidary::chat {
namespace {

template <typename... Parts>
std::unexpected<Error> invalid(const Parts&... parts) {
  return fail(ErrorCode::kInvalidArgument, cat(parts...));
}

// The member if it is there and not null.
const Json* present(const Json& object, std::string_view key) {
  const Json* member = json_member(object, key);
  return member == nullptr || member->is_null() ? nullptr : member;
}

const std::string* string_member(const Json& object, std::string_view key) {
  const Json* member = present(object, key);
  return member != nullptr && member->is_string() ? &member->get_ref<const std::string&>()
                                                  : nullptr;
}

Result<Role> parse_role(const Json& message, std::string_view where) {
  const std::string* role = string_member(message, "role");
  if (role == nullptr) return invalid(where, ": no role");
  if (*role == "system") return Role::kSystem;
  if (*role == "developer") return Role::kDeveloper;
  if (*role == "user") return Role::kUser;
  if (*role == "assistant" || *role == "model") return Role::kAssistant;
  if (*role == "tool") return Role::kTool;
  return invalid(where, ": role '", printable(*role),
                 "' is none of system, developer, user, assistant, tool");
}

std::optional<PartKind> part_kind(std::string_view type) {
  if (type == "text" || type == "input_text" || type == "output_text") return PartKind::kText;
  if (type == "image" || type == "image_url" || type == "input_image") return PartKind::kImage;
  if (type == "audio" || type == "audio_url" || type == "input_audio") return PartKind::kAudio;
  if (type == "video" || type == "video_url" || type == "input_video") return PartKind::kVideo;
  return std::nullopt;
}

Result<std::vector<ContentPart>> parse_parts(const Json& list, std::string_view where) {
  std::vector<ContentPart> parts;
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& item = list[i];
    if (item.is_string()) {
      parts.push_back({PartKind::kText, item.get<std::string>()});
      continue;
    }
    const std::string* type = string_member(item, "type");
    if (type == nullptr) return invalid(where, ": content part ", i, " has no type");
    const auto kind = part_kind(*type);
    if (!kind) {
      return invalid(where, ": content part ", i, " has type '", printable(*type),
                     "'; text, image, audio and video are known");
    }
    ContentPart part{*kind, {}};
    if (*kind == PartKind::kText) {
      const std::string* text = string_member(item, "text");
      if (text == nullptr) return invalid(where, ": content part ", i, " has no text");
      part.text = *text;
    } else if (const std::string* medium = string_member(item, "media")) {
      part.medium = *medium;
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

Status parse_content(const Json& json, std::string_view where, Message& message) {
  if (const Json* images = present(json, "images")) {
    if (!images->is_array()) return invalid(where, ": images is not a list");
    message.content.assign(images->size(), ContentPart{PartKind::kImage, {}});
  }
  const Json* content = json_member(json, "content");
  if (content != nullptr && content->is_string()) {
    message.content.push_back({PartKind::kText, content->get<std::string>()});
    return {};
  }
  if (content != nullptr && content->is_array()) {
    // A tool may well answer with a list; it is a list of parts when its entries say so.
    const bool parts =
        message.role != Role::kTool || (!content->empty() && string_member((*content)[0], "type"));
    if (parts) {
      TRY(auto list, parse_parts(*content, where));
      message.content.insert(message.content.end(), list.begin(), list.end());
      return {};
    }
  }
  if (message.role == Role::kTool) {
    message.has_result = true;
    if (content != nullptr) message.result = *content;
    return {};
  }
  if (content != nullptr && !content->is_null()) {
    return invalid(where, ": content is neither a string nor a list of parts");
  }
  return {};
}

Result<ToolCall> parse_call(const Json& json, std::string_view where) {
  const Json* function = present(json, "function");
  const Json& body = function != nullptr ? *function : json;
  ToolCall call;
  const std::string* name = string_member(body, "name");
  if (name == nullptr || name->empty()) return invalid(where, " has no function name");
  call.name = *name;
  if (const std::string* id = string_member(json, "id")) call.id = *id;
  const Json* arguments = present(body, "arguments");
  if (arguments == nullptr) return call;
  if (arguments->is_string()) {
    const auto& text = arguments->get_ref<const std::string&>();
    if (text.empty()) return call;
    auto parsed = parse_json(text, where);
    if (!parsed || !parsed->is_object()) return invalid(where, ": arguments are not a JSON object");
    call.arguments = *std::move(parsed);
  } else if (arguments->is_object()) {
    call.arguments = *arguments;
  } else {
    return invalid(where, ": arguments are neither an object nor a string of one");
  }
  return call;
}

Status parse_calls(const Json& json, std::string_view where, Message& message) {
  const Json* calls = present(json, "tool_calls");
  if (calls == nullptr) calls = present(json, "toolCalls");
  if (calls != nullptr) {
    if (!calls->is_array()) return invalid(where, ": tool_calls is not a list");
    for (size_t i = 0; i < calls->size(); ++i) {
      TRY(auto call, parse_call((*calls)[i], cat(where, ": tool call ", i)));
      message.tool_calls.push_back(std::move(call));
    }
  }
  if (const Json* responses = present(json, "tool_responses")) {
    if (!responses->is_array()) return invalid(where, ": tool_responses is not a list");
    for (size_t i = 0; i < responses->size(); ++i) {
      const std::string* name = string_member((*responses)[i], "name");
      const Json* response = json_member((*responses)[i], "response");
      if (response == nullptr) return invalid(where, ": tool response ", i, " has no response");
      message.tool_responses.push_back({name != nullptr ? *name : "unknown", *response});
    }
  }
  const bool any = !message.tool_calls.empty() || !message.tool_responses.empty();
  if (any && message.role != Role::kAssistant)
    return invalid(where, ": only an assistant calls tools");
  return {};
}

Result<Message> parse_message(const Json& json, std::string_view where) {
  if (!json.is_object()) return invalid(where, ": not an object");
  Message message;
  TRY(message.role, parse_role(json, where));
  TRY_VOID(parse_content(json, where, message));
  TRY_VOID(parse_calls(json, where, message));
  for (const std::string_view key : {"reasoning", "reasoning_content", "thinking"}) {
    const std::string* text = string_member(json, key);
    if (text != nullptr && message.reasoning.empty()) message.reasoning = *text;
  }
  if (const std::string* id = string_member(json, "tool_call_id")) message.tool_call_id = *id;
  for (const std::string_view key : {"name", "tool_name"}) {
    const std::string* name = string_member(json, key);
    if (name != nullptr && message.name.empty()) message.name = *name;
  }
  return message;
}

}  // namespace

Result<Conversation> parse_messages(const Json& messages, const Json& tools) {
  if (!messages.is_array()) return invalid("messages: not a list");
  if (messages.empty()) return invalid("messages: the list is empty");
  Conversation conversation;
  conversation.messages.reserve(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    TRY(auto message, parse_message(messages[i], cat("message ", i)));
    conversation.messages.push_back(std::move(message));
  }
  TRY(conversation.tools, parse_tools(tools));
  return conversation;
}

Result<std::vector<ToolDeclaration>> parse_tools(const Json& tools) {
  std::vector<ToolDeclaration> declarations;
  if (tools.is_null()) return declarations;
  if (!tools.is_array()) return invalid("tools: not a list");
  for (size_t i = 0; i < tools.size(); ++i) {
    const Json* function = present(tools[i], "function");
    const Json& body = function != nullptr ? *function : tools[i];
    const std::string* name = string_member(body, "name");
    if (name == nullptr || name->empty()) return invalid("tool ", i, ": no function name");
    ToolDeclaration declaration{.name = *name};
    if (const std::string* text = string_member(body, "description"))
      declaration.description = *text;
    for (const auto& [key, target] : {std::pair{"parameters", &declaration.parameters},
                                      std::pair{"response", &declaration.response}}) {
      const Json* schema = present(body, key);
      if (schema == nullptr) continue;
      if (!schema->is_object()) return invalid("tool ", i, ": ", key, " is not an object");
      *target = *schema;
    }
    declarations.push_back(std::move(declaration));
  }
  return declarations;
}

}  // namespace lapidary::chat
