// The part of the matvec that makes low-rank changes (fused_change.h): what it takes of a
// workgroup's memory, and its text.
#pragma once

#include <string>

#include "engine/kernels/compose.h"
#include "engine/kernels/matvec.h"

namespace lapidary::kernels {

inline bool has_norm(const MatvecSpec& spec) {
  return spec.prologue == Prologue::kNorm || spec.prologue == Prologue::kResidualNorm;
}

// Gate and up are summed by the same threads.
inline uint32_t streams(const MatvecSpec& spec) {
  return spec.epilogue == Epilogue::kGeglu ? 2 : 1;
}

inline uint32_t rows_per_group(const MatvecTiling& tiling) {
  return tiling.threads / tiling.lanes * tiling.rows;
}

// A row of the next product's V or U has a workgroup.
inline uint32_t next_groups(const MatvecSpec& spec) { return 2 * spec.fused.next_rank; }

// Bytes of workgroup memory for A h, and for the sums of what is gathered and handed over.
uint32_t low_bytes(const MatvecSpec& spec, const MatvecTiling& tiling);
// The names that fused_change.wgsl asks for; before it is included.
void set_fused(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling,
               const Variant& variant);
// The functions that it asks for; of a product that is changed.
void add_fused_change(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling,
                      const Variant& variant);
// The change, as it bears on the time that a cut takes.
std::string change_label(const FusedChange& fused);

}  // namespace lapidary::kernels
