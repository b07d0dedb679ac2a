// Attention for training: over packed batches, with K and V in f32, and its gradients by
// recomputation. Shapes and formulas are those of attention.h; AttentionSpec's slots, sequences,
// kv_type and tiling say nothing here. A batch is T = step.tokens tokens of one or more
// examples, one after the other; spans is u32 [T][2]: the first token of a token's example, and one
// past its last. Positions count from the example's first token.
#pragma once

#include "engine/kernels/attention.h"

namespace lapidary::kernels {

// q, k and v norms and rope.
//   0 r qkv f32 [T][qkv_rows()]   1 r qk_norms   2 r rope   3 r spans
//   4 w q f32 [T][heads * head_dim]   5 w k, 6 w v f32 [T][kv_heads * head_dim] (not if shares_kv)
//   last u step
KernelSource qkv_train_source(const AttentionSpec& spec, const Variant& variant);
Groups qkv_train_groups(const AttentionSpec& spec, uint32_t tokens);

// Back through it.
//   0 r qkv   1 r qk_norms   2 r rope   3 r spans   4 r dq   5 r dk, 6 r dv (not if shares_kv)
//   then w dqkv f32 [T][qkv_rows()], u step
KernelSource qkv_back_source(const AttentionSpec& spec, const Variant& variant);
Groups qkv_back_groups(const AttentionSpec& spec, uint32_t tokens);

//   0 r q   1 r k   2 r v   3 r spans   4 w out f32 [T][heads * head_dim]
//   5 w stats f32 [T][heads][2]: log(sum of exp(score)) first   6 u step
KernelSource attention_train_source(const AttentionSpec& spec, const Variant& variant);
//   0 r dout   1 r out   2 w stats: dout · out comes second   3 u step
KernelSource attention_delta_source(const AttentionSpec& spec, const Variant& variant);
//   0 r q   1 r k   2 r v   3 r spans   4 r dout   5 r stats   6 w dq   7 u step
KernelSource attention_back_source(const AttentionSpec& spec, const Variant& variant);
//   0 r q   1 r k   2 r v   3 r spans   4 r dout   5 r stats
//   6 w dk_part, 7 w dv_part f32 [heads][T][head_dim]   8 u step
KernelSource attention_back_kv_source(const AttentionSpec& spec, const Variant& variant);
// Of all but the delta and the sum.
Groups attention_train_groups(const AttentionSpec& spec, uint32_t tokens);
Groups attention_delta_groups(const AttentionSpec& spec, uint32_t tokens);

//   0 r dk_part   1 r dv_part   2 w dk, 3 w dv f32 [T][kv_heads * head_dim]   4 u step
// accumulate: other layers that read the same K and V have left their part in dk and dv.
KernelSource sum_heads_source(const AttentionSpec& spec, bool accumulate);
Groups sum_heads_groups(const AttentionSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
