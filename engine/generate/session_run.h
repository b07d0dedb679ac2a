// What the parts of a session's decode loop share. Not for others.
#pragma once

#include <functional>
#include <vector>

#include "engine/generate/constraint.h"
#include "engine/generate/session.h"

namespace lapidary::generate {

// The state of one run.
struct Session::Run {
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> given;  // the prompt, and what of the reply was written before
  const GenerateOptions& options;
  uint64_t seed;
  Listener& listener;
  Constraint* constraint = nullptr;  // what the reply must be; null: free
  std::function<bool()> cancelled;
  RunResult result;
  double start = 0;
  double first_token = 0;
  uint32_t draws_end = 0;  // positions below it have their draws on the GPU
  bool ended = false;

  uint32_t next_position() const {
    return static_cast<uint32_t>(prompt.size() + result.tokens.size());
  }
};

// A reply's log probabilities from what the GPU read back (kernels::TopkHeader and its pairs).
ChosenToken with_logprobs(std::span<const std::byte> bytes, uint32_t alternatives);

}  // namespace lapidary::generate
