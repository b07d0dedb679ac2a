// Kernels of the vision tower that are not products or norms (gemma4.md §7.2). A picture is a grid
// of patches; T = step.tokens of them, row by row.
#pragma once

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// The twin of WGSL's struct Grid (grid.wgsl).
struct alignas(16) Grid {
  uint32_t columns = 0;  // of patches
  uint32_t rows = 0;
  uint32_t pad[2] = {};
};
static_assert(sizeof(Grid) == 16);

// Pixels as the patch embedding takes them: patch t's [channel][y][x] as 2 v / 255 - 1, or v / 255
// where they are not centred.
//   0 r image   RGB bytes of the whole picture, row by row, four in a u32
//   1 w patches f32 [T][3 * side * side]   2 u grid   3 u step
KernelSource image_patches_source(uint32_t side, bool centred = true);
Groups image_patches_groups(uint32_t side, uint32_t patches);

// x[t] = h[t] + table[column of t] + table[rows + row of t].
//   0 r h f32 [T][cols]   1 r table f32 [2 * rows][cols]: of columns, then of rows
//   2 w x f32 [T][cols]   3 u grid   4 u step
KernelSource add_positions_source(uint32_t cols, uint32_t rows);
Groups add_positions_groups(uint32_t cols, uint32_t patches);

struct VisionAttentionSpec {
  uint32_t heads = 1;
  uint32_t head_dim = 64;  // a multiple of 4
  float eps = 1e-6f;
};

// q, k and v norms (v's without weights), and rope in two dimensions on q and k: the first half of
// a head turns by the patch's column, the second by its row, each in pairs of its own halves.
//   0 r q, 1 r k, 2 r v f32 [T][heads * head_dim]   3 r norms f32 [2 * head_dim]: q's, then k's
//   4 r rope: rope.h's table for head_dim / 2, all pairs of it turned
//   5 w q_out, 6 w k_out, 7 w v_out, as q   8 u grid   9 u step
KernelSource vision_heads_source(const VisionAttentionSpec& spec, const Variant& variant);
Groups vision_heads_groups(const VisionAttentionSpec& spec, uint32_t patches);

// Attention of every patch to all.
//   0 r q   1 r k   2 r v   3 w out, as q   4 u step
KernelSource vision_attention_source(const VisionAttentionSpec& spec, const Variant& variant);
Groups vision_attention_groups(const VisionAttentionSpec& spec, uint32_t patches);

// A soft token from side by side patches: r = sqrt(cols) * their mean, (r - bias) * scale where the
// tower standardises, and rms(r).
struct VisionPoolSpec {
  uint32_t cols = 0;
  uint32_t side = 3;
  bool standardises = false;
  float eps = 1e-6f;
};
//   0 r x f32 [patches][cols]   r standard f32 [2][cols]: bias, scale (standardises)
//   then w out f32 [T][cols], u grid, u step; T counts soft tokens here
KernelSource vision_pool_source(const VisionPoolSpec& spec, const Variant& variant);

// Layer norm of every row: y = (x - mean) / sqrt(variance + eps) * weight + bias, of x + before
// where something is added before; then y = rms(y), without weights, where that comes after.
struct LayerNormSpec {
  uint32_t cols = 0;
  bool adds_before = false;
  bool rms_after = false;
  float eps = 1e-5f;
  float rms_eps = 1e-6f;
};
//   0 r x f32 [T][cols]   1 r vectors f32: weight [cols], bias [cols], before [cols] (adds_before)
//   2 w y f32 [T][cols]   3 u step
// Dispatch: fold_groups(T).
KernelSource layer_norm_source(const LayerNormSpec& spec, const Variant& variant);

}  // namespace lapidary::kernels
