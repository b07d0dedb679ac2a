#include "engine/grammar/token_bytes.h"

#include "engine/chat/tags.h"
#include "engine/grammar/automaton.h"

namespace lapidary::grammar {
namespace {

// The byte that stands for a tag; 0 for those that no reply in a format holds.
uint8_t tag_byte(std::string_view name) {
  if (name == chat::kChannelOpen) return kChannelOpenByte;
  if (name == chat::kChannelClose) return kChannelCloseByte;
  if (name == chat::kCallOpen) return kCallOpenByte;
  if (name == chat::kCallClose) return kCallCloseByte;
  if (name == chat::kQuote) return kQuoteByte;
  return 0;
}

}  // namespace

TokenBytes::TokenBytes(const tokenizer::Tokenizer& tokenizer) {
  ends_.push_back(0);
  for (uint32_t id = 0; id < tokenizer.size(); ++id) {
    const tokenizer::TokenType type = tokenizer.vocabulary().type(id);
    if (tokenizer.is_special(id)) {
      const uint8_t tag = tag_byte(tokenizer.token_text(id));
      if (tag != 0) bytes_.push_back(static_cast<char>(tag));
    } else if (type == tokenizer::TokenType::kByte) {
      const uint8_t byte = tokenizer.vocabulary().byte_value(id);
      if (byte < kFirstTagByte) bytes_.push_back(static_cast<char>(byte));
    } else if (type != tokenizer::TokenType::kUnused && type != tokenizer::TokenType::kUnknown) {
      // A vocabulary from a file may hold any bytes: those of tags are not for it to write.
      const size_t start = bytes_.size();
      tokenizer.decode_to(bytes_, id);
      for (size_t i = start; i < bytes_.size(); ++i)
        if (static_cast<uint8_t>(bytes_[i]) >= kFirstTagByte) bytes_.resize(start);
    }
    ends_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
}

}  // namespace lapidary::grammar
