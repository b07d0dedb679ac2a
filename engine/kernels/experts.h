// Kernels of a mixture of experts (gemma4.md §4.4) beside the products, which are a matvec's with
// ExpertRows: which experts a token goes to, and what becomes of their outputs. T = step.tokens.
//
// `chosen` is u32 [T][used][2]: an expert, and the f32 factor of its output.
#pragma once

#include <algorithm>
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

// The rows of all tokens' experts (token * used + place), sorted by expert and cut into tiles, each
// of one expert: what a matmul with experts multiplies.
struct SortExpertsSpec {
  uint32_t count = 0;  // experts, at most 1024
  uint32_t used = 0;   // of a token
  uint32_t tile = 0;   // rows of a tile, at most
};
// Tiles that a batch may have.
constexpr uint32_t expert_tiles(const SortExpertsSpec& spec, uint32_t tokens) {
  const uint32_t rows = tokens * spec.used;
  return (rows + spec.tile - 1) / spec.tile + std::min(spec.count, rows);
}
//   0 r chosen   1 w tiles u32 [expert_tiles][4]: expert, begin and end in `order`, 0; those of no
//   expert have expert 2^32 - 1   2 w order u32 [used * T]   3 u step
// Dispatch: one workgroup.
KernelSource sort_experts_source(const SortExpertsSpec& spec, const Variant& variant);

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
