// Rows of a table by token id: the token embedding and the per-layer embedding.
#pragma once

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

struct GatherSpec {
  Codec codec;
  uint32_t cols = 0;
  float scale = 1.0f;      // sqrt(D), sqrt(P)
  uint32_t row_begin = 0;  // the table's rows in the bound part: ids outside it are left untouched
  uint32_t row_count = 0;
};

// Bindings: 0 r weights (the part), 1 r tokens: u32[T], 2 w out: [T, cols] f32, 3 u step.
// T = step.tokens.
KernelSource gather_source(const GatherSpec& spec);
// T at most 65,535.
Groups gather_groups(const GatherSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
