// Repacks rows of a tensor from the file's bytes into the planes of layout.h, on the GPU.
#pragma once

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

struct RepackSpec {
  Codec codec;
  uint32_t cols;
};

// The uniform of one dispatch, which handles n_rows whole rows.
struct RepackParams {
  uint32_t first_row;   // of the matrix, for the first row of this dispatch
  uint32_t n_rows;      // >= 1
  uint32_t rows_total;  // of the matrix
  uint32_t raw_offset;  // byte in `raw` where first_row starts; a multiple of 2, but with MXFP4
};
static_assert(sizeof(RepackParams) == 16);

// Bindings: 0 r raw (file bytes), 1 w packed (the matrix's range, packed_bytes() long), 2 u
// RepackParams. The packed range needs no clearing; rows may come in any order and chunking. A
// `raw` range must be a multiple of 4 bytes long. Exact: decoded values equal the file's.
KernelSource repack_source(const RepackSpec& spec);
Groups repack_groups(const RepackSpec& spec, uint32_t n_rows);

}  // namespace lapidary::kernels
