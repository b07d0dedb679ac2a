// A conversation to prompt text: Gemma 4's chat template (the canonical one of 2026-07-09), in C++
// (gemma4.md §6.1).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/chat/message.h"

namespace lapidary::chat {

// The prompt is the pieces' texts, one after another. `special`: the template's own, in which
// special tokens count. Everything that a user, tool or document said is in the other pieces and
// must be tokenised as plain text (tokenizer::Tokenizer::encode_pieces_of does both), so that no
// message can forge a turn or a tool call.
struct Piece {
  std::string text;
  bool special = false;
  // What the model itself writes in a turn whose Message::learn is set: its thinking, calls and
  // text, and the tag that ends each (<turn|>, or <|tool_response> after calls).
  bool learn = false;
  // The one tag of this piece stands for it (ContentPart::medium).
  std::string medium = {};

  bool operator==(const Piece&) const = default;
};

struct RenderOptions {
  bool thinking = false;
  bool add_generation_prompt = true;
  // The template of 12B, 26B and 31B: without thinking, the model's turn opens with an empty
  // thought. E2B and E4B: false.
  bool large_template = false;
  // For training: the last model turn, if it has no reasoning, begins with that empty thought, too,
  // as it would have when generated. Not in the template, where only the prompt has it.
  bool empty_thought_in_last_turn = false;
  // Keeps the reasoning of earlier turns that called tools.
  bool preserve_thinking = false;
  // The last message is an assistant's text that the model goes on writing: its turn stays open,
  // and nothing follows. Overrides add_generation_prompt.
  bool continue_final_message = false;
  // After tool results with text from the same message, the template closes the turn and opens no
  // new one. By default one is opened, as llama.cpp does; true keeps to the template's letter.
  bool strict_template = false;
};

// Begins with <bos>: the tokenizer must not add another. Media appear as <|image|>, <|audio|>,
// <|video|> in special pieces, in the order of the content parts; the caller widens them to their
// soft tokens. kInvalidArgument: no messages; a tool result that follows no call; nothing to
// continue.
Result<std::vector<Piece>> render(const Conversation& conversation,
                                  const RenderOptions& options = {});

// The pieces as one string, for showing.
std::string prompt_text(std::span<const Piece> pieces);

// True when the prompt ends inside a thought, so that the reply begins there:
// ReplyOptions::start_in_thinking.
bool ends_in_thinking(std::span<const Piece> pieces);

}  // namespace lapidary::chat
