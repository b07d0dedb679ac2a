// The gradient of Y = X W^T by X, for weights in any codec: dX = dY W. Weights stay as they are.
#pragma once

#include <vector>

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

struct MatmulBackSpec {
  std::vector<Segment> segments;  // whose rows follow each other in a token's row of dY
  uint32_t cols = 0;
  // Not 0: only this many rows of the one segment, from step.position on; dY has those alone.
  uint32_t window = 0;
  bool accumulate = false;  // adds to dX
};
// Bindings: 0 r weights, 1 w dX f32 [T, cols], 2 r dY f32 [T, rows], 3 u step. T = step.tokens.
KernelSource matmul_back_source(const MatmulBackSpec& spec, const Variant& variant);
Groups matmul_back_groups(const MatmulBackSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
