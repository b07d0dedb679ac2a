// Fine-tuning data in memory: token sequences and what each position should predict.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/base/error.h"

namespace lapidary::dataset {

// A target that does not count.
inline constexpr uint32_t kUnsupervised = UINT32_MAX;

// What a dataset may hold: 4 bytes a position, and the wasm heap ends at 256 MiB.
inline constexpr uint64_t kMaxPositions = 24 << 20;
inline constexpr uint32_t kMaxExamples = 1 << 21;

// tokens[0] is at position 0. targets[t] is the token that follows tokens[t], or kUnsupervised; the
// last one always counts, since what follows it would teach nothing.
struct Example {
  std::vector<uint32_t> tokens;
  std::vector<uint32_t> targets;
};

// A whole sequence, and which of its tokens are to be learnt: predicted from those before them.
struct LabelledTokens {
  std::vector<uint32_t> tokens;
  std::vector<bool> learn;
};

class Dataset {
 public:
  // max_positions: less than kMaxPositions where there is less memory.
  explicit Dataset(uint64_t max_positions = kMaxPositions) : max_positions_(max_positions) {}

  size_t size() const { return examples_.size(); }
  uint32_t length(size_t i) const {  // in positions
    return static_cast<uint32_t>(examples_[i].tokens.size() - 1);
  }
  uint32_t supervised(size_t i) const { return examples_[i].supervised; }
  // The line of the file that it comes from, from 1; several examples may come from one.
  uint64_t line(size_t i) const { return examples_[i].line; }
  uint64_t positions() const { return positions_; }
  uint64_t supervised() const { return supervised_; }

  Example example(size_t i) const;

  // Appends the sequence up to the last token to be learnt; false, and nothing added, if there is
  // none past the first token. kUnsupported: max_positions or kMaxExamples would be passed;
  // kInvalidArgument: a label for each token is not there, or a token is 2^31 or more.
  Result<bool> add(const LabelledTokens& sequence, uint64_t line);

 private:
  struct Stored {
    std::vector<uint32_t> tokens;  // length + 1; bit 31: to be learnt
    uint64_t line = 0;
    uint32_t supervised = 0;
  };
  uint64_t max_positions_;
  std::vector<Stored> examples_;
  uint64_t positions_ = 0, supervised_ = 0;
};

}  // namespace lapidary::dataset
