// A conversation as data, and its reading from the JSON that OpenAI's and Ollama's interfaces take.
#pragma once

#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/json.h"

namespace lapidary::chat {

enum class Role : uint8_t { kSystem, kDeveloper, kUser, kAssistant, kTool };
enum class PartKind : uint8_t { kText, kImage, kAudio, kVideo };

// A stretch of text, or the place of a medium whose bytes travel elsewhere.
struct ContentPart {
  PartKind kind = PartKind::kText;
  std::string text;    // kText only
  std::string medium;  // else: what the host calls the bytes; may be empty
};

struct ToolCall {
  std::string id;  // may be empty
  std::string name;
  Json arguments = Json::object();  // always an object
};

struct ToolResponse {
  std::string name;
  Json response;
};

struct Message {
  Role role = Role::kUser;
  std::vector<ContentPart> content;
  std::string reasoning;                     // assistant: its thinking, without tags
  std::vector<ToolCall> tool_calls;          // assistant
  std::vector<ToolResponse> tool_responses;  // assistant: results given along with the calls
  std::string tool_call_id;                  // tool: which call this answers
  std::string name;         // tool: the function's name, where the id does not tell
  Json result;              // tool: content that is JSON rather than text
  bool has_result = false;  // tool: `result` counts, not `content`
  bool learn = false;       // assistant: its words are what training teaches (Piece::learn)
};

struct ToolDeclaration {
  std::string name;
  std::string description;
  Json parameters;  // JSON Schema object, or null
  Json response;    // JSON Schema object, or null
};

struct Conversation {
  std::vector<Message> messages;
  std::vector<ToolDeclaration> tools;
};

// messages: an array of {role, content, …}. role: system, developer, user, assistant or model,
// tool. content: a string, null, or a list of {type:
// text|image|image_url|input_image|audio|input_audio|video|video_url}, of a medium with `media`,
// which names its bytes; a tool message's may be any JSON. Ollama's `images` list puts that many
// images before the text. Thinking: reasoning, reasoning_content or thinking. tool_calls, or
// toolCalls as TypeScript has it: {id, function: {name, arguments}} or {name, arguments}; arguments
// an object or a string of one. Tool messages: tool_call_id, name or tool_name. tools: null or an
// array of {type: "function", function: {name, description, parameters}}, with or without that
// wrapper. kInvalidArgument names the message or tool by its index.
Result<Conversation> parse_messages(const Json& messages, const Json& tools = Json());
Result<std::vector<ToolDeclaration>> parse_tools(const Json& tools);

}  // namespace lapidary::chat
