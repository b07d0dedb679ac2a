// The step: one small uniform that every dispatch of a submission shares. It says where in the
// sequence the submission stands, so that command lists can be built once and submitted again.
#pragma once

#include <cstdint>

namespace lapidary::kernels {

// The C++ twin of WGSL's `struct Step` (step.wgsl). `position` and `sequence` are decode's: a batch
// has them in its spans. In decode the argmax kernel adds 1 to `position` on the GPU, so that
// several tokens can be in flight.
struct alignas(16) Step {
  uint32_t position = 0;  // absolute position of the submission's first token, from 0
  uint32_t tokens = 1;    // T, the number of tokens of the submission; 1 in decode
  uint32_t sequence = 0;  // of the KV cache
  uint32_t spans = 1;     // of a batch
};
static_assert(sizeof(Step) == 16);

// Tokens of a dispatch that runs one token of each of several sequences: their steps lie side by
// side in a uniform, array<Step, kMaxStepRows>.
inline constexpr uint32_t kMaxStepRows = 64;

// Tokens [first, first + tokens) of a batch are those of one sequence, from `position` on; the twin
// of WGSL's `struct TokenSpan` (token_spans.wgsl). The spans of a batch cover it in order.
struct alignas(16) TokenSpan {
  uint32_t first = 0;
  uint32_t tokens = 1;
  uint32_t position = 0;
  uint32_t sequence = 0;
};
static_assert(sizeof(TokenSpan) == 16);

}  // namespace lapidary::kernels
