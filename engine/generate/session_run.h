// What the parts of a session's decode loop share. Not for others.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "engine/base/event.h"
#include "engine/generate/constraint.h"
#include "engine/generate/session.h"

namespace lapidary::generate {

// After a token that the GPU could not draw so many run one by one: the next ones will likely need
// the host too, and what ran ahead would be lost.
inline constexpr uint32_t kCautious = 16;

// Penalties and biases, as the decoder takes them.
struct Session::Adjustments {
  std::vector<kernels::AdjustEntry> entries;
  kernels::AdjustParams params;
};

// The state of one run.
struct Session::Run {
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> given;  // the prompt, and what of the reply was there at the last turn
  const GenerateOptions& options;
  uint64_t seed;
  Listener& listener;
  Constraint* constraint = nullptr;  // what the reply must be; null: free
  std::function<bool()> cancelled;
  SoftSpans soft;
  RunResult result;
  double start = 0;
  double first_token = 0;
  uint32_t draws_end = 0;            // positions below it have their draws on the GPU; 0: none has
  uint32_t cautious = 0;             // steps that must not run ahead of the host
  uint32_t sequence = 0;             // with a place: where its K and V are
  bool has_room = false;             // for its images
  bool ended = false;                // the reply is
  Status status;                     // or this ended it
  bool done = false;                 // it has left the scheduler
  Event woken;                       // done, or it is its turn to drive
  std::optional<uint32_t> row;       // of the last step, that has its logits; none: decode()
  std::optional<uint32_t> verified;  // the same of guesses that were run
  std::optional<Adjustments> adjustments;  // where they stay the same

  uint32_t next_position() const {
    return static_cast<uint32_t>(prompt.size() + result.tokens.size());
  }
  void end(FinishReason reason) {
    ended = true;
    result.reason = reason;
  }
  void catch_up() {
    for (size_t i = given.size() - prompt.size(); i < result.tokens.size(); ++i)
      given.push_back(result.tokens[i]);
  }
};

// A reply's log probabilities from what the GPU read back (kernels::TopkHeader and its pairs).
ChosenToken with_logprobs(std::span<const std::byte> bytes, uint32_t alternatives);

}  // namespace lapidary::generate
