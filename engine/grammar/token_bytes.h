// A vocabulary as the automaton reads it: the bytes that each token writes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace lapidary::grammar {

class TokenBytes {
 public:
  explicit TokenBytes(const tokenizer::Tokenizer& tokenizer);

  // Empty for tokens that are no part of an answer, and for ids outside the vocabulary. Tags of the
  // chat format are their bytes of automaton.h.
  std::string_view operator[](uint32_t id) const {
    if (id >= ends_.size() - 1) return {};
    return std::string_view(bytes_).substr(ends_[id], ends_[id + 1] - ends_[id]);
  }

 private:
  std::string bytes_;
  std::vector<uint32_t> ends_;  // of the token before each id, then of the last one
};

}  // namespace lapidary::grammar
