// The token table: ids to texts and types, texts to ids, and the merge ranks of the BPE. Built once
// from the arrays of a GGUF header, compactly: no allocation a token, about 18 MB for Gemma's
// 262144 tokens and 514906 merges. Facts: gemma4.md §2.2 and §5.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"

namespace lapidary::tokenizer {

// Strings as a GGUF array stores them: `count` times (u64 length, bytes), one after another.
struct StringArray {
  Bytes data;
  uint64_t count = 0;
};

// What Vocabulary::create reads; the bytes may go away afterwards.
struct VocabularySource {
  StringArray tokens;  // tokenizer.ggml.tokens
  Bytes token_types;   // tokenizer.ggml.token_type: i32 a token
  StringArray merges;  // tokenizer.ggml.merges: "left right", split at the first space past index 0
  uint32_t bos = 2;    // tokenizer.ggml.bos_token_id
  std::span<const uint32_t> eos{};  // tokenizer.ggml.eos_token_id and eos_token_ids
};

// tokenizer.ggml.token_type. Numbers outside the table count as kNormal.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

inline constexpr uint32_t kNoToken = UINT32_MAX;
inline constexpr uint32_t kNoRank = UINT32_MAX;

class Vocabulary {
 public:
  // kTruncated: an array ends before its count. kInvalidFormat: types missing, a byte token
  // missing, a merge of pieces that are no tokens, an id outside the table, or texts built to
  // collide. kUnsupported: absurd sizes.
  static Result<Vocabulary> create(const VocabularySource& source);

  uint32_t size() const { return static_cast<uint32_t>(types_.size()); }
  // The stored text ("▁" for a space, "<0x0A>" for a byte); empty for an id outside the table.
  std::string_view text(uint32_t id) const;
  TokenType type(uint32_t id) const { return id < size() ? types_[id] : TokenType::kUnused; }
  // The id of the token with this text, of any type; the lowest id where several have it.
  std::optional<uint32_t> find(std::string_view text) const;
  // As find, for control and user-defined tokens alone: what "<turn|>" means in this vocabulary.
  std::optional<uint32_t> find_special(std::string_view text) const;

  uint32_t bos() const { return bos_; }
  std::span<const uint32_t> end_of_generation() const { return end_of_generation_; }
  uint32_t byte_token(uint8_t byte) const { return byte_tokens_[byte]; }
  uint8_t byte_value(uint32_t byte_token_id) const;
  uint32_t space_token() const { return space_token_; }  // "▁", or kNoToken
  uint32_t ascii_token(uint8_t c) const { return ascii_tokens_[c & 0x7F]; }
  uint32_t longest_token() const { return longest_token_; }  // bytes

  // The longest special token that `text` begins with, or kNoToken. `control`: control tokens too,
  // else user-defined ones only.
  uint32_t match_special(std::string_view text, bool control) const;

  struct Merge {
    uint32_t rank = kNoRank;  // the lower merges first
    uint32_t id = kNoToken;   // the token it makes
  };
  Merge merge(uint32_t left, uint32_t right) const;
  // False when no merge at all joins a code point ending in byte `left` to one beginning with byte
  // `right`: the text may be cut there. 256 stands for "▁", so that words come apart.
  bool joinable(uint32_t left, uint32_t right) const { return joinable_[left * 257 + right]; }

  // Bytes of heap held.
  size_t heap_bytes() const;

 private:
  struct Slot {
    uint32_t hash;
    uint32_t id;
  };
  Status index_tokens(const StringArray& tokens, Bytes types);
  Status index_bytes();
  Status index_merges(const StringArray& merges);
  void index_specials();
  bool insert_merge(uint32_t rank);
  uint32_t first_candidate(uint32_t hash) const;
  uint32_t find_pair(std::string_view left, std::string_view right) const;

  std::string texts_;                  // all token texts, one after another
  std::vector<uint32_t> offsets_;      // [size + 1] into texts_
  std::vector<TokenType> types_;       // [size]
  std::vector<Slot> token_slots_;      // open addressing, a power of two
  std::vector<uint32_t> merge_slots_;  // open addressing over merges_ by (left, right)
  struct MergeRow {
    uint32_t left, right, id;
  };
  std::vector<MergeRow> merges_;    // by rank
  std::vector<bool> joinable_;      // [257 * 257]
  std::vector<uint32_t> specials_;  // control and user-defined ids, by text
  std::array<bool, 256> special_first_{};
  std::array<uint32_t, 256> byte_tokens_{};
  std::array<uint32_t, 128> ascii_tokens_{};
  std::vector<uint32_t> end_of_generation_;
  uint32_t space_token_ = kNoToken;
  uint32_t longest_token_ = 0;
  uint32_t bos_ = 0;
};

}  // namespace lapidary::tokenizer
