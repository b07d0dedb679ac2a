#include "engine/dataset/encode.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/chat/render.h"

namespace lapidary::dataset {
namespace {

using chat::Role;

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // "▁"

// The bytes of `source` that a token stands for. A space and its mark in a text both become "▁".
size_t source_bytes(const tokenizer::Tokenizer& tokenizer, uint32_t id, std::string_view source) {
  const std::string_view text = tokenizer.token_text(id);
  switch (tokenizer.vocabulary().type(id)) {
    case tokenizer::TokenType::kByte:
      return 1;
    case tokenizer::TokenType::kControl:
    case tokenizer::TokenType::kUserDefined:
      return text.size();
    default:
      break;
  }
  size_t bytes = 0;
  for (size_t at = 0; at < text.size();) {
    const bool mark = text.substr(at).starts_with(kSpaceMark);
    const bool space =
        mark && !source.substr(std::min(bytes, source.size())).starts_with(kSpaceMark);
    const size_t step = mark ? kSpaceMark.size() : 1;
    bytes += space ? 1 : step;
    at += step;
  }
  return bytes;
}

// Tokens of the whole prompt; each is learnt as the piece in which it begins.
Result<LabelledTokens> encode_pieces(const std::vector<chat::Piece>& pieces,
                                     const tokenizer::Tokenizer& tokenizer) {
  LabelledTokens out;
  out.tokens = tokenizer.encode_pieces_of(pieces);
  const std::string source = chat::prompt_text(pieces);
  size_t piece = 0, piece_end = 0, at = 0;
  for (const uint32_t id : out.tokens) {
    while (piece < pieces.size() && at >= piece_end + pieces[piece].text.size()) {
      piece_end += pieces[piece++].text.size();
    }
    if (piece == pieces.size()) break;
    out.learn.push_back(pieces[piece].learn);
    at += source_bytes(tokenizer, id, std::string_view(source).substr(at));
    if (at > source.size()) break;
  }
  if (at != source.size() || out.learn.size() != out.tokens.size()) {
    return fail(ErrorCode::kInternal, "the tokens do not cover the text");
  }
  return out;
}

void keep_last_turn(std::vector<chat::Message>& messages) {
  size_t end = messages.size();
  while (end > 0 && !messages[end - 1].learn) --end;
  size_t begin = end;
  while (begin > 0 && (messages[begin - 1].role == Role::kAssistant ||
                       messages[begin - 1].role == Role::kTool)) {
    --begin;
  }
  for (size_t i = 0; i < begin; ++i) messages[i].learn = false;
}

bool thinks(const std::vector<chat::Message>& messages) {
  for (size_t i = messages.size(); i > 0 && messages[i - 1].role != Role::kUser; --i) {
    if (messages[i - 1].learn && !messages[i - 1].reasoning.empty()) return true;
  }
  return false;
}

Result<LabelledTokens> encode_conversation(chat::Conversation& conversation,
                                           const tokenizer::Tokenizer& tokenizer,
                                           const EncodeOptions& options) {
  if (options.supervise == Supervise::kLastTurn) keep_last_turn(conversation.messages);
  const bool thinking = options.thinking == Thinking::kAuto ? thinks(conversation.messages)
                                                            : options.thinking == Thinking::kOn;
  TRY(const auto pieces, chat::render(conversation, {.thinking = thinking,
                                                     .add_generation_prompt = false,
                                                     .large_template = options.large_template,
                                                     .empty_thought_in_last_turn = true}));
  return encode_pieces(pieces, tokenizer);
}

LabelledTokens encode_plain(const Record& record, const tokenizer::Tokenizer& tokenizer,
                            const EncodeOptions& options) {
  const auto specials =
      options.parse_specials ? tokenizer::SpecialTokens::kParse : tokenizer::SpecialTokens::kPlain;
  LabelledTokens out;
  out.tokens = tokenizer.encode(record.prompt, {.add_bos = true, .specials = specials});
  if (record.prompt.empty()) {
    // The text itself may begin with <bos>.
    out.tokens = tokenizer.encode(record.text, {.add_bos = true, .specials = specials});
    out.learn.assign(1, false);
  } else {
    out.learn.assign(out.tokens.size(), false);
    const auto completion = tokenizer.encode(record.text, {.specials = specials});
    out.tokens.insert(out.tokens.end(), completion.begin(), completion.end());
  }
  const auto eos = tokenizer.find_special("<eos>");
  // A text without a token of its own teaches nothing.
  if (options.append_eos && eos && out.tokens.size() > out.learn.size() &&
      out.tokens.back() != *eos) {
    out.tokens.push_back(*eos);
  }
  out.learn.resize(out.tokens.size(), true);
  return out;
}

}  // namespace

Result<LabelledTokens> encode_record(Record record, const tokenizer::Tokenizer& tokenizer,
                                     const EncodeOptions& options) {
  LabelledTokens out;
  if (record.plain) {
    out = encode_plain(record, tokenizer, options);
  } else {
    TRY(out, encode_conversation(record.conversation, tokenizer, options));
  }
  if (std::ranges::contains(out.learn, true)) return out;
  return fail(ErrorCode::kInvalidArgument,
              record.plain ? "the text is empty" : "no assistant's message to learn from");
}

}  // namespace lapidary::dataset
