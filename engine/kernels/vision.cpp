#include "engine/kernels/vision.h"

#include <cmath>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kHeadThreads = 64;
constexpr uint32_t kQueries = 16;  // of a workgroup

std::string label(std::string_view name, const VisionAttentionSpec& spec) {
  return cat("vision ", name, " ", spec.heads, "x", spec.head_dim);
}

}  // namespace

KernelSource image_patches_source(uint32_t side, bool centred) {
  Composer composer;
  composer.flag("CENTRED", centred)
      .constant("SIDE", side)
      .bind('r', "image", "array<u32>")
      .bind('w', "patches", "array<f32>")
      .bind('u', "grid", "Grid")
      .bind('u', "step", "Step")
      .include("image_patches.wgsl");
  return std::move(composer).finish(cat("image patches ", side));
}

Groups image_patches_groups(uint32_t side, uint32_t patches) {
  return {div_ceil(3 * side * side, kThreads), patches, 1};
}

KernelSource add_positions_source(uint32_t cols, uint32_t rows) {
  Composer composer;
  composer.constant("COLS", cols)
      .constant("ROWS", rows)
      .bind('r', "h", "array<f32>")
      .bind('r', "table", "array<f32>")
      .bind('w', "x", "array<f32>")
      .bind('u', "grid", "Grid")
      .bind('u', "step", "Step")
      .include("add_positions.wgsl");
  return std::move(composer).finish(cat("add positions ", cols));
}

Groups add_positions_groups(uint32_t cols, uint32_t patches) {
  return {div_ceil(cols, kThreads), patches, 1};
}

KernelSource vision_heads_source(const VisionAttentionSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer(variant, kHeadThreads);
  composer.include("grid.wgsl")
      .constant("HEADS", spec.heads)
      .constant("HEAD_DIM", spec.head_dim)
      .constant("EPS", spec.eps);
  for (const std::string_view name : {"q", "k", "v", "norms"})
    composer.bind('r', name, "array<f32>");
  composer.bind('r', "rope", "array<vec2<f32>>");
  for (const std::string_view name : {"q_out", "k_out", "v_out"})
    composer.bind('w', name, "array<f32>");
  composer.bind('u', "grid", "Grid").bind('u', "step", "Step");
  composer.include("vision_heads.wgsl");
  return std::move(composer).finish(label("heads", spec));
}

Groups vision_heads_groups(const VisionAttentionSpec& spec, uint32_t patches) {
  return {3 * spec.heads, patches, 1};
}

KernelSource vision_attention_source(const VisionAttentionSpec& spec, const Variant& variant) {
  Composer composer;
  composer.flag("LIGHT", variant.light)
      .flag("EVERY_KEY", 1)
      .constant("HEADS", spec.heads)
      .constant("KV_HEADS", spec.heads)
      .constant("HEAD_DIM", spec.head_dim)
      .constant("COLUMNS_EACH", div_ceil(spec.head_dim, 16u))
      .bind('r', "q", "array<f32>")
      .bind('r', "k", "array<f32>")
      .bind('r', "v", "array<f32>")
      .bind('w', "out", "array<f32>")
      .bind('u', "step", "Step")
      .include("attention_train.wgsl");
  return std::move(composer).finish(label("attention", spec));
}

Groups vision_attention_groups(const VisionAttentionSpec& spec, uint32_t patches) {
  return {div_ceil(patches, kQueries), spec.heads, 1};
}

KernelSource vision_pool_source(const VisionPoolSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer(variant, kThreads);
  composer.include("grid.wgsl")
      .flag("STANDARDISES", spec.standardises)
      .constant("COLS", spec.cols)
      .constant("SIDE", spec.side)
      .constant("FACTOR", std::sqrt(static_cast<float>(spec.cols)) /
                              static_cast<float>(spec.side * spec.side))
      .constant("EPS", spec.eps)
      .bind('r', "x", "array<f32>");
  if (spec.standardises) composer.bind('r', "standard", "array<f32>");
  composer.bind('w', "out", "array<f32>").bind('u', "grid", "Grid").bind('u', "step", "Step");
  composer.include("vision_pool.wgsl");
  return std::move(composer).finish(cat("vision pool ", spec.cols));
}

KernelSource layer_norm_source(const LayerNormSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer(variant, kThreads);
  composer.flag("ADDS_BEFORE", spec.adds_before)
      .flag("RMS_AFTER", spec.rms_after)
      .constant("COLS", spec.cols)
      .constant("EPS", spec.eps)
      .constant("RMS_EPS", spec.rms_eps)
      .bind('r', "x", "array<f32>")
      .bind('r', "vectors", "array<f32>")
      .bind('w', "y", "array<f32>")
      .bind('u', "step", "Step");
  composer.include("layer_norm.wgsl");
  return std::move(composer).finish(cat("layer norm ", spec.cols));
}

}  // namespace lapidary::kernels
