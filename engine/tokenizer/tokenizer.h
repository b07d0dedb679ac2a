// Text to token ids and back: Gemma's BPE over characters with byte fallback (gemma4.md §5).
//
// Text that names a special token ("<turn|>", "<|tool_call>") is an injection when a user wrote it
// and structure when a template did. Three modes say which tokens are recognised in text:
//   kPlain        none. For whatever users, tools and documents say. The default.
//   kUserDefined  user-defined ones alone: llama.cpp's parse_special = false.
//   kParse        control tokens too: llama.cpp's parse_special = true, for template text.
// encode_pieces takes text of both kinds at once, so that a prompt is tokenised as one string, but
// specials match inside the template's own pieces only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/tokenizer/vocabulary.h"

namespace lapidary::tokenizer {

enum class SpecialTokens : uint8_t { kPlain, kUserDefined, kParse };

struct EncodeOptions {
  // Begins the ids with <bos> unless they begin with it already: a rendered conversation brings its
  // own.
  bool add_bos = false;
  SpecialTokens specials = SpecialTokens::kPlain;
};

// A stretch of a prompt: kParse where `special`, else kPlain.
struct TextPiece {
  std::string_view text;
  bool special = false;
};

class Tokenizer {
 public:
  // Errors: Vocabulary::create's.
  static Result<Tokenizer> create(const VocabularySource& source);

  // Never fails: bytes that are not UTF-8 become byte tokens, so decode gives them back. Only
  // U+2581 does not come back: it is the vocabulary's own mark for a space. Time O(n log n) in the
  // longest word.
  std::vector<uint32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  // The pieces as one text: merges cross the seams, special tokens do not.
  std::vector<uint32_t> encode_pieces(std::span<const TextPiece> pieces,
                                      bool add_bos = false) const;
  // For any range of objects with .text and .special, such as chat::Piece.
  template <typename Range>
  std::vector<uint32_t> encode_pieces_of(const Range& range, bool add_bos = false) const {
    std::vector<TextPiece> pieces;
    for (const auto& piece : range) pieces.push_back({piece.text, piece.special});
    return encode_pieces(pieces, add_bos);
  }

  // The bytes that the ids stand for. Control and unknown tokens show only if asked; ids outside
  // the vocabulary are left out.
  std::string decode(std::span<const uint32_t> ids, bool show_control = false) const;
  void decode_to(std::string& out, uint32_t id, bool show_control = false) const;

  uint32_t size() const { return vocabulary_.size(); }
  uint32_t bos() const { return vocabulary_.bos(); }
  // The stored name ("▁the", "<0x0A>", "<turn|>"); empty for an id outside the vocabulary.
  std::string_view token_text(uint32_t id) const { return vocabulary_.text(id); }
  // Control or user-defined: a tag of the chat format, never a word of an answer.
  bool is_special(uint32_t id) const {
    const TokenType type = vocabulary_.type(id);
    return type == TokenType::kControl || type == TokenType::kUserDefined;
  }
  // The file's eos ids, <eos>, <turn|> and <|tool_response>.
  bool is_end_of_generation(uint32_t id) const;
  std::span<const uint32_t> end_of_generation() const { return vocabulary_.end_of_generation(); }
  // The id of a special token by its text, e.g. "<|image|>".
  std::optional<uint32_t> find_special(std::string_view text) const {
    return vocabulary_.find_special(text);
  }
  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  explicit Tokenizer(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  Vocabulary vocabulary_;
};

// Tokens to text as they come. What push and flush return is always whole, valid UTF-8: bytes wait
// until their character is complete, and bytes that can no longer become one show as U+FFFD.
class StreamDecoder {
 public:
  // The tokenizer must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool show_control = false)
      : tokenizer_(&tokenizer), show_control_(show_control) {}
  std::string push(uint32_t id);
  // At the end, or before a token that is no text: gives up waiting.
  std::string flush();

 private:
  std::string take(bool final);
  const Tokenizer* tokenizer_;
  bool show_control_;
  std::string pending_;
};

}  // namespace lapidary::tokenizer
