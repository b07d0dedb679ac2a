// Kernels between the matrices that only training needs: gates apart from their products, the way
// back through norms and gates, rows picked out, dropout. T = step.tokens; all values f32.
#pragma once

#include "engine/kernels/elementwise.h"

namespace lapidary::kernels {

// Back through residual_norm_source of the same spec. dx holds the gradient of x_new by whatever
// else reads it, and becomes that of x_old. In this order:
//   r x      [T][cols]: x_new, or x_old without has_delta (has_pre)
//   r delta  [T][cols]                                     (has_delta)
//   r norms  as there
//   r dh     [T][cols]                                     (has_pre)
//   w dx     [T][cols]
//   w ddelta [T][cols]                                     (has_delta)
//   u step
// Dispatch: fold_groups(T).
KernelSource residual_norm_back_source(const ResidualNormSpec& spec, const Variant& variant);

// y[t][i] = gelu(z[t * z_stride + i]) m, i below width. m = mul[t * mul_stride + mul_offset + i],
// or with mul_stride 0 z[t * z_stride + mul_offset + i].
struct GateSpec {
  uint32_t width = 0;
  uint32_t z_stride = 0;
  uint32_t mul_stride = 0;
  uint32_t mul_offset = 0;
  bool quick = false;  // x / (1 + exp(-1.702 x)) in gelu's place; there is no way back through it
};
//   r z   r mul (mul_stride not 0)   w y [T][width]   u step
KernelSource gate_source(const GateSpec& spec);
//   r z   r mul (mul_stride not 0)   r dy [T][width]   w dz, laid out as z   u step
KernelSource gate_back_source(const GateSpec& spec);
Groups gate_groups(const GateSpec& spec, uint32_t tokens);

// y[r] = x[rows[r]] for r below T; scatter: y[rows[r]] = x[r].
//   r x   r rows u32 [T]   w y   u step
KernelSource copy_rows_source(uint32_t cols, bool scatter);
Groups copy_rows_groups(uint32_t cols, uint32_t rows);

// y = x with values fallen out at `rate`, the others scaled by 1 / (1 - rate). salt: of this place;
// equal seeds and salts drop equal values.
struct DropoutSpec {
  uint32_t cols = 0;
  float rate = 0;  // 0 to below 1
  uint32_t salt = 0;
  bool accumulate = false;  // adds to y
};
//   r x [T][cols]   w y [T][cols]   u {seed: u32}   u step
KernelSource dropout_source(const DropoutSpec& spec);
Groups dropout_groups(const DropoutSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
