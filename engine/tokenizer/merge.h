// The byte-pair merging of one run of text: gemma4.md §5, steps 5 and 6. Internal to the tokenizer.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/tokenizer/vocabulary.h"

namespace lapidary::tokenizer {

// Appends the ids of `run` to `ids`. O(n log n) in the characters of the run; scratch is kept
// between calls.
class Merger {
 public:
  explicit Merger(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}
  void encode(std::string_view run, std::vector<uint32_t>& ids);

 private:
  struct Symbol {
    uint32_t offset;  // into the piece
    uint32_t id;      // its token, or kNoToken for a character outside the vocabulary
    uint32_t previous, next;
    uint32_t rank;  // of the merge with `next`; kNoRank when there is none
  };
  void merge_piece(std::string_view piece, std::vector<uint32_t>& ids);
  void offer(uint32_t left);

  const Vocabulary& vocabulary_;
  std::vector<Symbol> symbols_;
  std::vector<uint64_t> queue_;  // min-heap of rank << 32 | left symbol
};

}  // namespace lapidary::tokenizer
