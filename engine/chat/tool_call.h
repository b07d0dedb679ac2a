// Reads the tool calls that the model writes: call:NAME{key:value,…} in the notation of gemma4.md
// §6.1, with the repairs of §6.4 for what is nearly that.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/chat/message.h"

namespace lapidary::chat {

// Stands for the token <|"|> in a call's text: a byte that UTF-8 never holds, so that the same five
// characters written as plain text inside a string stay text.
inline constexpr char kQuoteMark = '\xFF';

// `text` with every <|"|> turned into kQuoteMark, and stray bytes of that value into '?'.
std::string mark_quotes(std::string_view text);

// body: what stands between <|tool_call> and <tool_call|>, quotes marked: one call, or several in a
// row. tools: their schemas tell where an unquoted string ends; may be empty. Read to the letter
// first. What fails is read again leniently: an unclosed quote or brace is closed, 'single quotes'
// and bare words are strings. kInvalidFormat when that fails too.
Result<std::vector<ToolCall>> parse_tool_calls(std::string_view body,
                                               std::span<const ToolDeclaration> tools);

}  // namespace lapidary::chat
