#include "engine/kernels/experts.h"

#include "engine/base/text.h"

namespace lapidary::kernels {
KernelSource choose_experts_source(const ChooseExpertsSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer(variant, 128);
  composer.constant("COUNT", spec.count)
      .constant("USED", spec.used)
      .bind('r', "logits", "array<f32>")
      .bind('r', "scales", "array<f32>")
      .bind('w', "chosen", "array<vec2<u32>>")
      .bind('u', "step", "Step")
      .include("choose_experts.wgsl");
  return std::move(composer).finish(cat("choose ", spec.used, " of ", spec.count, " experts"));
}

KernelSource sort_experts_source(const SortExpertsSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer({.light = variant.light}, 256);
  composer.constant("COUNT", spec.count)
      .constant("USED", spec.used)
      .constant("TILE", spec.tile)
      .bind('r', "chosen", "array<vec2<u32>>")
      .bind('w', "tiles", "array<vec4<u32>>")
      .bind('w', "order", "array<u32>")
      .bind('u', "step", "Step")
      .include("sort_experts.wgsl");
  return std::move(composer).finish(cat("sort ", spec.used, " of ", spec.count, " experts"));
}

KernelSource mix_experts_source(const MixExpertsSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer(variant, 256);
  composer.constant("COLS", spec.cols)
      .constant("USED", spec.used)
      .constant("DELTA_STRIDE", spec.delta_stride)
      .constant("EPS", spec.eps)
      .bind('w', "out", "array<f32>")
      .bind('r', "chosen", "array<vec2<u32>>")
      .bind('r', "norms", "array<f32>")
      .bind('w', "delta", "array<f32>")
      .bind('u', "step", "Step")
      .include("mix_experts.wgsl");
  return std::move(composer).finish(cat("mix experts ", spec.used, " x ", spec.cols));
}

}  // namespace lapidary::kernels
