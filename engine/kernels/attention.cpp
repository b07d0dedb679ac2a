#include "engine/kernels/attention.h"

#include <algorithm>
#include <bit>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/step.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kPrefillThreads = 256;
constexpr uint32_t kPrefillKeys = 64;  // of a tile; KEYS in attention_prefill.wgsl
constexpr uint32_t kPostThreads = 64;
constexpr uint32_t kMaxSplits = 64;
// Weights of splits that the merge keeps in workgroup memory.
constexpr uint32_t kMaxMerged = 2048;

uint32_t units(const AttentionSpec& spec) { return (spec.head_dim + 7) / 8; }

// Groups of 4 queries in a prefill workgroup: as many as there are threads for (each group needs a
// thread a unit), a power of two, at most 8 (workgroup memory).
uint32_t prefill_fours(const AttentionSpec& spec) {
  return std::min(8u, std::bit_floor(kPrefillThreads / units(spec)));
}

// What the buffers of a cache are arrays of (kv_cache.wgsl).
struct KvElement {
  std::string_view type;
  uint32_t bytes;
};
KvElement kv_element(KvType type) {
  switch (type) {
    case KvType::kF32:
      return {"array<vec4<f32>>", 16};
    case KvType::kQ8_0:
      return {"array<vec2<u32>>", 8};
    case KvType::kF16:
      break;
  }
  return {"array<vec4<u32>>", 16};
}

std::string label(std::string_view name, const AttentionSpec& spec) {
  return cat(name, " ", spec.heads, "/", spec.kv_heads, "x", spec.head_dim,
             spec.window == 0 ? " global" : " window ", spec.window);
}

void add_shape(Composer& composer, const AttentionSpec& spec, const Variant& variant,
               uint32_t threads, bool writes) {
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .flag("KV_F32", spec.kv_type == KvType::kF32)
      .flag("KV_Q8", spec.kv_type == KvType::kQ8_0)
      .flag("KV_WRITE", writes)
      .flag("V_FROM_K", spec.v_from_k)
      .constant("THREADS", threads)
      .constant("HEADS", spec.heads)
      .constant("KV_HEADS", spec.kv_heads)
      .constant("HEAD_DIM", spec.head_dim)
      .constant("UNITS", units(spec))
      .constant("KV_STRIDE", kv_row_bytes(spec) / kv_element(spec.kv_type).bytes)
      .constant("QKV_ROWS", spec.qkv_rows())
      .constant("WINDOW", spec.window)
      .constant("SLOTS", std::max(spec.slots, 1u))
      .constant("ROTATED", spec.rotated_pairs)
      .constant("FOUR", 4u)
      .constant("EPS", spec.eps)
      .include("step.wgsl")
      .include("bound.wgsl");
}

// Whether decode's kernel can be cut so: without loops a thread turns each pair of elements.
bool is_valid(const AttentionSpec& spec, const AttentionTiling& tiling) {
  return (tiling.threads == 128 || tiling.threads == 256) && 2 * tiling.threads >= spec.head_dim &&
         tiling.keys >= 32 && tiling.keys <= 1024 && tiling.splits >= 1 &&
         tiling.splits <= kMaxSplits;
}

void bind_cache(Composer& composer, const AttentionSpec& spec, char access) {
  const std::string_view type = kv_element(spec.kv_type).type;
  composer.bind(access, "k_cache", type).bind(access, "v_cache", type);
}

}  // namespace

Status check_attention(const AttentionSpec& spec) {
  const auto bad = [](const auto&... parts) {
    return fail(ErrorCode::kInvalidArgument, cat("attention: ", parts...));
  };
  if (spec.heads == 0 || spec.kv_heads == 0 || spec.heads % spec.kv_heads != 0 ||
      spec.heads > 1024) {
    return bad(spec.heads, " query heads on ", spec.kv_heads,
               " key/value heads; the first must be a multiple of the second, at most 1024");
  }
  if (spec.head_dim < 2 || spec.head_dim > 512 || spec.head_dim % 2 != 0) {
    return bad("head size ", spec.head_dim, "; it must be even, 2 to 512");
  }
  if (spec.rotated_pairs > spec.head_dim / 2) {
    return bad(spec.rotated_pairs, " rotated pairs in a head of ", spec.head_dim);
  }
  if (spec.slots == 0 || spec.slots < spec.window || spec.slots > (1u << 24)) {
    return bad(spec.slots, " cache slots for a window of ", spec.window,
               "; at least the window and at most 2^24 are needed");
  }
  if (spec.sequences == 0 || spec.sequences > kMaxSequences) {
    return bad(spec.sequences, " sequences; 1 to ", kMaxSequences, " are possible");
  }
  if (!is_valid(spec, spec.tiling)) {
    return bad(spec.tiling.splits, " splits of ", spec.tiling.keys, " keys by ",
               spec.tiling.threads, " threads; 1 to 64 of 32 to 1024 by 128 or 256 are possible");
  }
  // Indices of units are 32 bits wide, byte offsets of a binding too.
  if (kv_cache_bytes(spec) > 0xffffffffull) {
    return bad("a cache of ", kv_cache_bytes(spec),
               " bytes; choose a shorter context or fewer sequences");
  }
  return {};
}

std::string_view kv_type_name(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "f32";
    case KvType::kQ8_0:
      return "q8_0";
    case KvType::kF16:
      break;
  }
  return "f16";
}

uint32_t kv_row_bytes(const AttentionSpec& spec) {
  const uint32_t elements = units(spec) * 8;
  switch (spec.kv_type) {
    case KvType::kF32:
      return elements * 4;
    case KvType::kQ8_0:
      // The scales of 16 units are 8 bytes.
      return static_cast<uint32_t>(round_up(elements + 8 * div_ceil(units(spec), 16), 16));
    case KvType::kF16:
      break;
  }
  return elements * 2;
}

uint64_t kv_cache_bytes(const AttentionSpec& spec) {
  return uint64_t{spec.sequences} * spec.slots * spec.kv_heads * kv_row_bytes(spec);
}

uint32_t attention_splits(uint32_t position, uint32_t window, const AttentionTiling& tiling) {
  uint64_t keys = uint64_t{position} + 1;
  if (window != 0) keys = std::min<uint64_t>(keys, window);
  return static_cast<uint32_t>(
      std::clamp<uint64_t>((keys + tiling.keys - 1) / tiling.keys, 1, tiling.splits));
}

bool fits(const AttentionSpec& spec, const AttentionTiling& tiling) {
  return is_valid(spec, tiling) && tiling.splits <= kMaxTunedSplits &&
         spec.heads * tiling.splits <= kMaxMerged;
}

std::vector<AttentionTiling> near_tilings(const AttentionSpec& spec, uint32_t position) {
  const auto [threads, keys, splits] = spec.tiling;
  const AttentionTiling near[] = {
      {128, keys, splits},         {threads, keys / 2, splits}, {threads, keys / 2, splits * 2},
      {128, keys / 2, splits * 2}, {threads, keys * 2, splits}, {128, keys * 2, splits},
      {threads, keys, splits * 2},
  };
  std::vector<AttentionTiling> tilings{spec.tiling};
  for (const AttentionTiling& tiling : near) {
    const bool known = std::ranges::any_of(tilings, [&](const AttentionTiling& other) {
      return other.threads == tiling.threads && attention_splits(position, spec.window, other) ==
                                                    attention_splits(position, spec.window, tiling);
    });
    if (!known && fits(spec, tiling)) tilings.push_back(tiling);
  }
  return tilings;
}

std::string tuning_key(const AttentionSpec& spec, const Variant& variant) {
  return cat(label("attention decode", spec), " ", kv_type_name(spec.kv_type),
             spec.shares_kv ? " shared" : "", spec.v_from_k ? " v from k" : "",
             variant.subgroups ? " subgroups" : "");
}

namespace {

void add_splits(Composer& composer, const AttentionSpec& spec) {
  composer.constant("MAX_SPLITS", spec.tiling.splits)
      .constant("KEYS_PER_SPLIT", spec.tiling.keys)
      .include("splits.wgsl");
}

KernelSource decode_source(const AttentionSpec& spec, const Variant& variant,
                           const FusedChange& fused, uint32_t partial_stride) {
  const bool several = partial_stride > 0;  // tokens
  Composer composer;
  add_shape(composer, spec, variant, spec.tiling.threads, !spec.shares_kv);
  composer.constant("LANES", std::min(8u, std::bit_floor(units(spec))))
      .flag("TOKENS", several)
      .constant("PARTIAL_STRIDE", partial_stride)
      .bind('r', "qkv", "array<f32>")
      .bind('r', "qk_norms", "array<f32>")
      .bind('r', "rope", "array<vec2<f32>>");
  bind_cache(composer, spec, spec.shares_kv ? 'r' : 'w');
  composer.bind('w', "partial", "array<f32>").bind('w', "stats", "array<f32>");
  if (fused.handed_rank > 0) {
    const uint32_t handing = handers(fused.handed_rank, spec.tiling.threads, spec.head_dim);
    const uint32_t groups = handed_groups(fused.handed_rank, spec.tiling.threads, handing);
    composer.bind('r', "adapter", fused.buffer_type())
        .flag("ADAPTER_BF16", fused.bf16)
        .constant("HANDED_RANK", fused.handed_rank)
        .constant("HANDED", static_cast<uint32_t>(fused.handed_offset() / 8))
        .constant("HANDERS", handing)
        .constant("HANDED_GROUPS", groups)
        .flag("HANDED_TWICE", groups > 1)
        .constant("HANDED_AHEAD",
                  variant.light ? 0 : std::min(div_ceil(spec.head_dim, handing), 8u))
        .constant("PARTIAL_LOW", spec.tiling.splits * spec.heads * spec.head_dim);
  } else {
    composer.flag("HANDED_RANK", 0);
  }
  if (several) {
    composer.bind('u', "steps", cat("array<Step, ", kMaxStepRows, ">"));
  } else {
    composer.bind('u', "step", "Step");
  }
  add_splits(composer, spec);
  composer.include("workgroup_reduce.wgsl")
      .include("kv_cache.wgsl")
      .include("head_row.wgsl")
      .include("attention_decode.wgsl");
  return std::move(composer).finish(label(several ? "attention rows" : "attention decode", spec));
}

}  // namespace

KernelSource attention_decode_source(const AttentionSpec& spec, const Variant& variant,
                                     const FusedChange& fused) {
  return decode_source(spec, variant, fused, 0);
}

KernelSource attention_rows_source(const AttentionSpec& spec, const Variant& variant,
                                   const FusedChange& fused, uint32_t partial_stride) {
  return decode_source(spec, variant, fused, partial_stride);
}

Groups attention_rows_groups(const AttentionSpec& spec, uint32_t tokens, uint32_t position) {
  return {spec.heads, attention_splits(position, spec.window, spec.tiling), tokens};
}

Groups attention_decode_groups(const AttentionSpec& spec, uint32_t position) {
  return {spec.heads, attention_splits(position, spec.window, spec.tiling), 1};
}

KernelSource qkv_post_source(const AttentionSpec& spec, const Variant& variant) {
  Composer composer;
  add_shape(composer, spec, variant, kPostThreads, !spec.shares_kv);
  composer.bind('w', "qkv", "array<f32>")
      .bind('r', "qk_norms", "array<f32>")
      .bind('r', "rope", "array<vec2<f32>>");
  if (!spec.shares_kv) bind_cache(composer, spec, 'w');
  composer.bind('r', "spans", "array<TokenSpan>")
      .bind('u', "step", "Step")
      .include("token_spans.wgsl")
      .include("workgroup_reduce.wgsl");
  if (!spec.shares_kv) composer.include("kv_cache.wgsl");
  composer.include("head_row.wgsl").include("qkv_post.wgsl");
  return std::move(composer).finish(label("qkv post", spec));
}

Groups qkv_post_groups(const AttentionSpec& spec, uint32_t tokens) {
  return {spec.heads + (spec.shares_kv ? 0 : 2 * spec.kv_heads), tokens, 1};
}

// It has no reduction over subgroups: its variants differ in `light` alone.
KernelSource attention_prefill_source(const AttentionSpec& spec, const Variant& variant) {
  const uint32_t fours = prefill_fours(spec);
  Composer composer;
  add_shape(composer, spec, {.light = variant.light}, kPrefillThreads, false);
  // Rows that start at multiples of 4 are read and written as vectors.
  const bool vectors = spec.head_dim % 4 == 0;
  const std::string_view row_type = vectors ? "array<vec4<f32>>" : "array<f32>";
  composer.flag("VECTORS", vectors)
      .flag("BOTH_WAYS", spec.both_ways)
      .constant("FOURS", fours)
      .constant("KEYS_A_THREAD", kPrefillKeys * fours / kPrefillThreads)
      .bind('r', "qkv", row_type);
  bind_cache(composer, spec, 'r');
  composer.bind('w', "out", row_type).bind('r', "spans", "array<TokenSpan>");
  if (spec.both_ways) composer.bind('r', "last", "array<u32>");
  composer.bind('u', "step", "Step")
      .include("token_spans.wgsl")
      .include("kv_cache.wgsl")
      .include("attention_prefill.wgsl");
  return std::move(composer).finish(label("attention prefill", spec));
}

// Where the spans begin and end is not known here; each but one may add a part that is not full.
Groups attention_prefill_groups(const AttentionSpec& spec, uint32_t tokens, uint32_t spans) {
  const uint32_t queries = 4 * prefill_fours(spec);
  return {spec.heads, (tokens + queries - 1) / queries + spans - 1, 1};
}

}  // namespace lapidary::kernels
