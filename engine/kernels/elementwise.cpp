#include "engine/kernels/elementwise.h"

#include <cmath>

#include "engine/base/text.h"

namespace lapidary::kernels {

Composer residual_norm_composer(const ResidualNormSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer(variant, 256);
  composer.flag("HAS_DELTA", spec.has_delta)
      .flag("HAS_POST", spec.has_post)
      .flag("HAS_PRE", spec.has_pre)
      .constant("COLS", spec.cols)
      .constant("EPS", spec.eps);
  return composer;
}

KernelSource residual_norm_source(const ResidualNormSpec& spec, const Variant& variant) {
  Composer composer = residual_norm_composer(spec, variant);
  composer.bind('r', "x_old", "array<f32>");
  if (spec.has_delta) composer.bind('r', "delta", "array<f32>");
  composer.bind('r', "norms", "array<f32>");
  if (spec.has_delta) composer.bind('w', "x_new", "array<f32>");
  if (spec.has_pre) composer.bind('w', "h", "array<f32>");
  composer.bind('u', "step", "Step").include("residual_norm.wgsl");
  return std::move(composer).finish(cat("residual norm ", spec.cols));
}

KernelSource ple_combine_source(const PleCombineSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer(variant, 64);
  composer.constant("LAYERS", spec.layers)
      .constant("WIDTH", spec.width)
      .constant("CTX_SCALE", static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.hidden))))
      .constant("EPS", spec.eps)
      .bind('r', "ctx", "array<f32>")
      .bind('r', "tok", "array<f32>")
      .bind('r', "norm", "array<f32>")
      .bind('w', "ple", "array<f32>")
      .bind('u', "step", "Step")
      .include("ple_combine.wgsl");
  return std::move(composer).finish(cat("ple combine ", spec.layers, "x", spec.width));
}

}  // namespace lapidary::kernels
