#include "engine/kernels/attention_train.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kBlock = 16;  // queries or keys of a workgroup
constexpr uint32_t kHeadThreads = 64;

std::string label(std::string_view name, const AttentionSpec& spec) {
  return cat(name, " ", spec.heads, "/", spec.kv_heads, "x", spec.head_dim,
             spec.window == 0 ? " global" : " window ", spec.window);
}

void add_shape(Composer& composer, const AttentionSpec& spec, const Variant& variant) {
  composer.flag("LIGHT", variant.light)
      .constant("HEADS", spec.heads)
      .constant("KV_HEADS", spec.kv_heads)
      .constant("HEAD_DIM", spec.head_dim)
      .constant("WINDOW", spec.window);
}

void add_reduction(Composer& composer, const Variant& variant) {
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .constant("THREADS", kHeadThreads)
      .include("step.wgsl")
      .include("bound.wgsl")
      .include("workgroup_reduce.wgsl");
}

// What the kernels of single head vectors share. head_row.wgsl reads the projection by projected().
Composer head_composer(const AttentionSpec& spec, const Variant& variant) {
  Composer composer;
  add_shape(composer, spec, variant);
  composer.flag("KV_WRITE", 0)
      .flag("HAS_KV", !spec.shares_kv)
      .flag("V_FROM_K", !spec.shares_kv && spec.v_from_k)
      .constant("UNITS", div_ceil(spec.head_dim, 8u))
      .constant("QKV_ROWS", spec.qkv_rows())
      .constant("ROTATED", spec.rotated_pairs)
      .constant("EPS", spec.eps)
      .bind('r', "qkv", "array<f32>")
      .bind('r', "qk_norms", "array<f32>")
      .bind('r', "rope", "array<vec2<f32>>")
      .bind('r', "spans", "array<vec2<u32>>")
      .text("fn projected(i: u32) -> f32 { return qkv[i]; }\n");
  return composer;
}

// What the kernels of queries and keys share.
Composer pair_composer(const AttentionSpec& spec, const Variant& variant) {
  Composer composer;
  add_shape(composer, spec, variant);
  composer.flag("EVERY_KEY", 0)
      .constant("COLUMNS_EACH", div_ceil(spec.head_dim, 16u))
      .bind('r', "q", "array<f32>")
      .bind('r', "k", "array<f32>")
      .bind('r', "v", "array<f32>")
      .bind('r', "spans", "array<vec2<u32>>");
  return composer;
}

KernelSource back_source(const AttentionSpec& spec, const Variant& variant, bool by_key) {
  Composer composer = pair_composer(spec, variant);
  composer.flag("BY_KEY", by_key).bind('r', "dout", "array<f32>").bind('r', "stats", "array<f32>");
  if (by_key) {
    composer.bind('w', "dk_part", "array<f32>").bind('w', "dv_part", "array<f32>");
  } else {
    composer.bind('w', "dq", "array<f32>");
  }
  composer.bind('u', "step", "Step").include("attention_back.wgsl");
  return std::move(composer).finish(label(by_key ? "attention back kv" : "attention back q", spec));
}

}  // namespace

KernelSource qkv_train_source(const AttentionSpec& spec, const Variant& variant) {
  Composer composer = head_composer(spec, variant);
  composer.bind('w', "q", "array<f32>");
  if (!spec.shares_kv) composer.bind('w', "k", "array<f32>").bind('w', "v", "array<f32>");
  composer.bind('u', "step", "Step");
  add_reduction(composer, variant);
  composer.include("head_row.wgsl").include("qkv_train.wgsl");
  return std::move(composer).finish(label("qkv train", spec));
}

Groups qkv_train_groups(const AttentionSpec& spec, uint32_t tokens) {
  return {spec.heads + (spec.shares_kv ? 0 : 2 * spec.kv_heads), tokens, 1};
}

KernelSource qkv_back_source(const AttentionSpec& spec, const Variant& variant) {
  Composer composer = head_composer(spec, variant);
  composer.bind('r', "dq", "array<f32>");
  if (!spec.shares_kv) composer.bind('r', "dk", "array<f32>").bind('r', "dv", "array<f32>");
  composer.bind('w', "dqkv", "array<f32>").bind('u', "step", "Step");
  add_reduction(composer, variant);
  composer.include("head_row.wgsl").include("qkv_back.wgsl");
  return std::move(composer).finish(label("qkv back", spec));
}

Groups qkv_back_groups(const AttentionSpec& spec, uint32_t tokens) {
  return {spec.qkv_rows() / spec.head_dim, tokens, 1};
}

KernelSource attention_train_source(const AttentionSpec& spec, const Variant& variant) {
  Composer composer = pair_composer(spec, variant);
  composer.bind('w', "out", "array<f32>")
      .bind('w', "stats", "array<f32>")
      .bind('u', "step", "Step")
      .include("attention_train.wgsl");
  return std::move(composer).finish(label("attention train", spec));
}

KernelSource attention_delta_source(const AttentionSpec& spec, const Variant& variant) {
  Composer composer;
  add_shape(composer, spec, variant);
  composer.bind('r', "dout", "array<f32>")
      .bind('r', "out", "array<f32>")
      .bind('w', "stats", "array<f32>")
      .bind('u', "step", "Step");
  add_reduction(composer, variant);
  composer.include("attention_delta.wgsl");
  return std::move(composer).finish(label("attention delta", spec));
}

KernelSource attention_back_source(const AttentionSpec& spec, const Variant& variant) {
  return back_source(spec, variant, false);
}

KernelSource attention_back_kv_source(const AttentionSpec& spec, const Variant& variant) {
  return back_source(spec, variant, true);
}

Groups attention_train_groups(const AttentionSpec& spec, uint32_t tokens) {
  return {div_ceil(tokens, kBlock), spec.heads, 1};
}

Groups attention_delta_groups(const AttentionSpec& spec, uint32_t tokens) {
  return {spec.heads, tokens, 1};
}

KernelSource sum_heads_source(const AttentionSpec& spec, bool accumulate) {
  Composer composer;
  composer.flag("ACCUMULATE", accumulate)
      .constant("HEADS", spec.heads)
      .constant("KV_HEADS", spec.kv_heads)
      .constant("HEAD_DIM", spec.head_dim)
      .bind('r', "dk_part", "array<f32>")
      .bind('r', "dv_part", "array<f32>")
      .bind('w', "dk", "array<f32>")
      .bind('w', "dv", "array<f32>")
      .bind('u', "step", "Step")
      .include("sum_heads.wgsl");
  return std::move(composer).finish(label("sum heads", spec));
}

Groups sum_heads_groups(const AttentionSpec& spec, uint32_t tokens) {
  return {div_ceil(spec.head_dim, 64u), tokens, spec.kv_heads};
}

}  // namespace lapidary::kernels
