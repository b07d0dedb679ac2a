// Attention kernels: one token over the KV cache (decode), T tokens over it (prefill), and the
// normalisation, rope and cache write that come before the latter. Formulas: gemma4.md §4.3, §4.5.
//
// KV cache of one layer: a K buffer and a V buffer of kv_cache_bytes(spec) each, laid out
// [sequences][slots][kv_heads][kv_row_bytes]; position p lives in slot p % slots. Elements are of
// the spec's KvType. Rows are padded with zeros to a multiple of 8 elements. Attention always uses
// values rounded to the cache's type, also for the token at hand, so decode and prefill agree.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/kernels/compose.h"
#include "engine/kernels/fused_change.h"

namespace lapidary::kernels {

inline constexpr uint32_t kMaxSequences = 64;

// What keys and values are kept as. kQ8_0: 8-bit integers in blocks of 32, each with its largest
// magnitude, rounded up to bf16; integer i stands for i / 127 of it. 8.5 bits an element where rows
// are multiples of 256, a little more otherwise.
enum class KvType : uint8_t { kF16, kF32, kQ8_0 };
inline constexpr KvType kKvTypes[] = {KvType::kF16, KvType::kF32, KvType::kQ8_0};
// "f16", "f32", "q8_0".
std::string_view kv_type_name(KvType type);

// How decode attention is cut. The product that merges the splits must know the same cut.
struct AttentionTiling {
  uint32_t threads = 256;  // of a workgroup, 128 or 256
  uint32_t keys = 128;     // that a split takes while there are no more than `splits`, 32 to 1024
  uint32_t splits = 16;    // most workgroups per head, 1 to 64
  friend bool operator==(const AttentionTiling&, const AttentionTiling&) = default;
};
// The most splits that a cut found by tuning has: buffers have room for them.
inline constexpr uint32_t kMaxTunedSplits = 32;

struct AttentionSpec {
  uint32_t heads = 1;           // query heads; a multiple of kv_heads
  uint32_t kv_heads = 1;        // query head a reads KV head a / (heads / kv_heads)
  uint32_t head_dim = 64;       // even, 2..512
  uint32_t window = 0;          // keys seen, the query's own included; 0: all (global layer)
  uint32_t slots = 0;           // of the cache: >= context where global; >= window (decode) and
                                // >= window - 1 + T (prefill) where sliding
  uint32_t sequences = 1;       // that the cache holds, each in slots of its own
  uint32_t rotated_pairs = 32;  // leading pairs that rope turns; the others pass through
  KvType kv_type = KvType::kF16;
  bool shares_kv = false;  // the layer has no K/V of its own: it only reads another's cache
  bool v_from_k = false;   // no V projection: v = rms(k before norm and rope)
  bool both_ways = false;  // prefill: keys after a query's own are seen, up to its `last`
  float eps = 1e-6f;
  AttentionTiling tiling;  // of decode

  // Rows of the fused q,k,v projection, so the stride of a token: q [heads][head_dim], then k and v
  // [kv_heads][head_dim] each. No k, v when shares_kv; no v when v_from_k.
  uint32_t qkv_rows() const {
    const uint32_t parts = shares_kv ? 0 : v_from_k ? 1 : 2;
    return (heads + parts * kv_heads) * head_dim;
  }
  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

// kInvalidArgument when a kernel cannot be made of the spec (see the limits above).
Status check_attention(const AttentionSpec& spec);

// Bytes of one cached row of one head: head_dim elements, rounded up to a multiple of 8.
uint32_t kv_row_bytes(const AttentionSpec& spec);
// Bytes of the K buffer, and of the V buffer; a multiple of 16. Fill them with zeros at creation
// (WebGPU does).
uint64_t kv_cache_bytes(const AttentionSpec& spec);

// How many parts a head's keys are split into at `position` (0-based) in decode, 1..tiling.splits:
// clamp(ceil(n_keys / tiling.keys), 1, tiling.splits), n_keys = position + 1, at most the window.
// splits.wgsl is its twin (const WINDOW, KEYS_PER_SPLIT and MAX_SPLITS are given by whoever
// includes it).
uint32_t attention_splits(uint32_t position, uint32_t window, const AttentionTiling& tiling);
// Whether decode can be cut so: a thread for each pair of a head's elements, and buffers and the
// merge have room for the splits.
bool fits(const AttentionSpec& spec, const AttentionTiling& tiling);
// The spec's cut, and those beside it that make a difference at `position`.
std::vector<AttentionTiling> near_tilings(const AttentionSpec& spec, uint32_t position);
// Names what a cut of decode is chosen for: the shape, the cache's type, and the form of the
// kernel.
std::string tuning_key(const AttentionSpec& spec, const Variant& variant);

// Decode: q/k/v norms, rope, cache write and attention of one token at step.position.
//   0 r qkv       f32 [qkv_rows()], raw projections
//   1 r qk_norms  f32 [2][head_dim]: q_norm, then k_norm (unused, but bound, when shares_kv)
//   2 r rope      rope_table() of this layer's kind
//   3 w K cache   (r when shares_kv)
//   4 w V cache   (r when shares_kv)
//   5 w partial   f32 [tiling.splits][heads][head_dim]: sums of p*v, not divided by the sum of p
//   6 w stats     f32 [tiling.splits][heads][2]: maximum score of the split, sum of p =
//                 exp(s - max)
//   7 u step
// Only the first attention_splits() splits are written. A split without keys has max -1e30 and sum
// 0. When shares_kv the owner must have written the slot of step.position before.
// Dispatch: x = heads, y >= attention_splits(position, …); surplus workgroups return at once, so a
// kept command list may use a bound for the positions that it will serve.
// fused: `handed` of the output's product, whose A h is left in pieces [splits][heads][rank] behind
// all that partial has; then the last storage binding, before step, is `adapter`. head_dim is then
// a multiple of 4.
KernelSource attention_decode_source(const AttentionSpec& spec, const Variant& variant,
                                     const FusedChange& fused = {});
Groups attention_decode_groups(const AttentionSpec& spec, uint32_t position);

// Decode of one token each of T sequences. qkv f32 [T][qkv_rows()], partial f32 [T][partial_stride]
// (at least what decode's has, pieces included) and stats f32 [T][tiling.splits][heads][2];
// bindings as decode's, but the last is u steps, array<Step, kMaxStepRows>. Dispatch:
// attention_rows_groups(spec, T, the largest position).
KernelSource attention_rows_source(const AttentionSpec& spec, const Variant& variant,
                                   const FusedChange& fused, uint32_t partial_stride);
Groups attention_rows_groups(const AttentionSpec& spec, uint32_t tokens, uint32_t position);

// Prefill, first half: T = step.tokens tokens in place, of the sequences that the spans say. q
// becomes normed and roped q; K and V of the tokens go to their slots; k and v in qkv stay as they
// are.
//   0 w qkv  f32 [T][qkv_rows()]      1 r qk_norms      2 r rope
//   3 w K cache   4 w V cache      (when shares_kv: no caches, the next ones move up)
//   5 r spans  TokenSpan [step.spans]   6 u step
// Dispatch: qkv_post_groups(spec, T).
KernelSource qkv_post_source(const AttentionSpec& spec, const Variant& variant);
Groups qkv_post_groups(const AttentionSpec& spec, uint32_t tokens);

// Prefill, second half: causal (and windowed) attention of the queries of every span, whose keys
// are already in the cache, over their own sequence. At T = 1 it equals decode. both_ways: every
// query says the last position that it sees, its own or one after it, which must be written, too;
// the window limits what it sees before it only.
//   0 r qkv  f32 [T][qkv_rows()], the q part only, after qkv_post
//   1 r K cache   2 r V cache   3 w out f32 [T][heads * head_dim]
//   4 r spans   then r last u32 [T], of a sequence never less than the one before (both_ways)
//   then u step
// Dispatch: attention_prefill_groups(spec, T, spans).
KernelSource attention_prefill_source(const AttentionSpec& spec, const Variant& variant);
Groups attention_prefill_groups(const AttentionSpec& spec, uint32_t tokens, uint32_t spans);

}  // namespace lapidary::kernels
