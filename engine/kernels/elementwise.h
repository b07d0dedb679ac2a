// Kernels between the matrices, for T tokens: the residual update with its norms, and the
// per-layer-embedding (PLE) inputs.
#pragma once

#include <cstdint>

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// For each of T = step.tokens tokens (gemma4.md §4.3, steps 1, 5, 7–9):
//   x_new = (x_old + rms(delta) * post) * scale,   h = rms(x_new) * pre
// With has_delta false: x_new = x_old (not written), h = rms(x_old) * pre.
// With has_post false: the delta is added as it is.
struct ResidualNormSpec {
  uint32_t cols = 0;      // width of x, >= 1
  bool has_delta = true;  // false: only h, for the first layer
  bool has_post = true;   // delta passes rms(…) * post first
  bool has_pre = true;    // h is wanted
  float eps = 1e-6f;
  friend bool operator==(const ResidualNormSpec&, const ResidualNormSpec&) = default;
};
// Bindings, in this order; those marked are left out when the flag is false:
//   r x_old  f32 [T][cols]
//   r delta  f32 [T][cols]                                   (has_delta)
//   r norms  f32 [2*cols + 1]: post at 0, pre at cols, scale at 2*cols (always all there)
//   w x_new  f32 [T][cols]                                   (has_delta)
//   w h      f32 [T][cols]                                   (has_pre)
//   u step
// So "rrrwwu" with all, "rrrwu" without pre, "rrwu" without delta. has_delta or has_pre must be
// true. scale is not applied when has_delta is false. Dispatch: fold_groups(T), one workgroup a
// token.
KernelSource residual_norm_source(const ResidualNormSpec& spec, const Variant& variant);
// The start of a kernel of this spec, before its bindings.
Composer residual_norm_composer(const ResidualNormSpec& spec, const Variant& variant);

// PLE inputs of all layers (gemma4.md §4.2): ple = (rms(ctx / sqrt(hidden)) * norm + tok) /
// sqrt(2), the norm over each run of `width`.
struct PleCombineSpec {
  uint32_t layers = 0;
  uint32_t width = 0;   // P, of one layer's input
  uint32_t hidden = 0;  // D, of the residual stream
  float eps = 1e-6f;
  friend bool operator==(const PleCombineSpec&, const PleCombineSpec&) = default;
};
//   0 r ctx   f32 [T][layers][width], raw output of per_layer_model_proj
//   1 r tok   f32 [T][layers][width], the token's table row times sqrt(width)
//   2 r norm  f32 [width]
//   3 w ple   f32 [T][layers][width]
//   4 u step
// Dispatch: {layers, T, 1}.
KernelSource ple_combine_source(const PleCombineSpec& spec, const Variant& variant);

}  // namespace lapidary::kernels
