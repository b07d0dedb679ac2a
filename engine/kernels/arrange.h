// Copies a matrix of f32 into another place and order, and rounds it to bf16 where that is asked
// for: what fused low-rank changes (fused_change.h) are made from.
#pragma once

#include <cstdint>

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// The twin of WGSL's struct Arrange; offsets and strides in values. Entry (i, j) of rows x cols
// lies at in_offset + i * in_row + j * in_col and goes to out_offset + i * out_row + j; of bf16
// (order: FusedChange) out_offset and out_row are whole eights, which zeros fill up. rows: at most
// 65,535.
struct alignas(16) ArrangeSpec {
  static constexpr uint32_t kNone = 0xffffffff;
  uint32_t rows = 0, cols = 0;
  uint32_t in_offset = 0, in_row = 0, in_col = 1;
  uint32_t out_offset = 0, out_row = 0;
  // Times weights[first + j] and weights[second + j].
  uint32_t first = kNone, second = kNone;
};
static_assert(sizeof(ArrangeSpec) == 48);

// Bindings: 0 r source, 1 w result, 2 r weights, 3 u ArrangeSpec.
KernelSource arrange_source(bool bf16);
Groups arrange_groups(const ArrangeSpec& spec, bool bf16);

}  // namespace lapidary::kernels
