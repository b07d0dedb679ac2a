// Copies a matrix of f32 into another place and order: what fused low-rank changes
// (fused_change.h) are made from.
#pragma once

#include <cstdint>

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// The twin of WGSL's struct Arrange; offsets and strides in floats. Entry (i, j) of rows x cols
// lies at in_offset + i * in_row + j * in_col and goes to out_offset + i * out_row + j. rows: at
// most 65,535.
struct alignas(16) ArrangeSpec {
  uint32_t rows = 0, cols = 0;
  uint32_t in_offset = 0, in_row = 0, in_col = 1;
  uint32_t out_offset = 0, out_row = 0;
  // Of a norm site (matvec.h) of `cols` columns: 1: times post[j], 2: times pre[j].
  uint32_t weights = 0;
};
static_assert(sizeof(ArrangeSpec) == 32);

// Bindings: 0 r source, 1 w result, 2 r site, 3 u ArrangeSpec.
KernelSource arrange_source();
Groups arrange_groups(const ArrangeSpec& spec);

}  // namespace lapidary::kernels
