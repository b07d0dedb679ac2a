// Low-rank changes of matrix products (LoRA adapters): y = W h + B (f * (A h)), A [rank, cols], B
// [rows, rank], f a factor for each row of A. Several adapters of one matrix are one change: their
// A and B side by side. The change of a product (q, k, v; gate, up; ...) takes two dispatches here:
//
//   A h  by a product of A's own, whose segment is in kF32
//   B    by the kernel here, which also does what comes after the product (GeGLU, softcap, ...)
//
// For one token most products make their change by themselves (fused_change.h).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/compose.h"
#include "engine/kernels/fused_change.h"
#include "engine/kernels/matvec.h"

namespace lapidary::kernels {

// Of one matrix, all adapters together.
inline constexpr uint32_t kMaxLowRank = 1024;

// The change of a product: a part a segment, in their order.
struct LowRank {
  std::vector<LowRankPart> parts;
  uint32_t cols = 0;

  uint32_t rank() const { return total_rank(parts); }
  uint32_t total_rows() const;  // of all matrices

  // Where things lie in a buffer, in bytes. A: rank rows of f32, padded with zeros to whole units
  // of 32, those of part 0 first: a segment of kF32. Then, from `factors` on, a multiple of 256: a
  // factor a row of A; and B, transposed: of each part [rank][rows], in order.
  uint64_t row_bytes() const;
  uint64_t a_offset(size_t part) const;
  uint64_t factors() const;
  uint64_t b_offset(size_t part) const;
  uint64_t bytes() const { return b_offset(parts.size()); }
};

// Ends a product that has a change. y holds what the matrices gave, a row after another (for kGeglu
// gate and up); with the change added, the epilogue follows.
struct LowRankAddSpec {
  LowRank change;
  Epilogue epilogue = Epilogue::kStore;
  float cap = 30.0f;        // kSoftcap
  uint32_t y_stride = 0;    // floats of a token's row of y; 0: as many as there are rows
  uint32_t mul_stride = 0;  // kGeluMul, as in matmul.h; of one token 0
  uint32_t mul_offset = 0;
  // kGeglu: the output is handed over as MatvecSpec::quantizes does.
  Dot quantizes = Dot::kF32;
  bool light = false;  // as Variant's
};

// Bindings: 0 w y (for all but kGeglu the output, too), 1 r the change from `factors` on, 2 r A h,
// f32 [T][rank], then
//   w out  f32 [T][rows], or quantised   (kGeglu)
//   r mul                                (kGeluMul)
KernelSource low_rank_add_source(const LowRankAddSpec& spec);
Groups low_rank_add_groups(const LowRankAddSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
