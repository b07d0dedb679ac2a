// Kernels of a mixture of experts (gemma4.md §4.4) beside the products, which are a matvec's with
// ExpertRows: which experts a token goes to, and what becomes of their outputs. T = step.tokens.
//
// `chosen` is u32 [T][used][2]: an expert, and the f32 factor of its output.
#pragma once

#include <cstdint>

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

constexpr uint64_t chosen_bytes(uint64_t used, uint64_t tokens) { return used * tokens * 8; }

// The `used` most probable experts of each token, the best first (of equals the first), whatever
// the logits hold. Factor: softmax(logits), over the sum of those chosen (at least 2^-14), times
// the expert's scale.
struct ChooseExpertsSpec {
  uint32_t count = 0;  // experts, at most 1024
  uint32_t used = 0;   // of a token
};
//   0 r logits f32 [T][count]   1 r scales f32 [count]   2 w chosen   3 u step
// Dispatch: fold_groups(T), one workgroup a token.
KernelSource choose_experts_source(const ChooseExpertsSpec& spec, const Variant& variant);

// delta = rms(delta) * norms[0] + rms(sum of factor * out over a token's experts) * norms[1]: the
// dense branch, which delta holds before, and the experts.
struct MixExpertsSpec {
  uint32_t cols = 0;
  uint32_t used = 0;
  uint32_t delta_stride = 0;  // floats from one token's row of delta to the next's
  float eps = 1e-6f;
};
//   0 w out f32 [T][used][cols]; overwritten   1 r chosen   2 r norms f32 [2][cols]
//   3 w delta f32 [T][delta_stride]   4 u step
// Dispatch: fold_groups(T), one workgroup a token.
KernelSource mix_experts_source(const MixExpertsSpec& spec, const Variant& variant);

}  // namespace lapidary::kernels
