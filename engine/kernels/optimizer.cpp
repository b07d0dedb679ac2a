#include "engine/kernels/optimizer.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

Composer reduction(const Variant& variant, bool parts) {
  Composer composer;
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .flag("PARTS", parts)
      .constant("THREADS", 256u);
  if (parts) composer.bind('r', "gradients", "array<f32>").bind('w', "partial", "array<f32>");
  if (!parts) composer.bind('r', "partial", "array<f32>").bind('w', "result", "array<f32>");
  composer.include("bound.wgsl").include("workgroup_reduce.wgsl");
  return composer;
}

}  // namespace

KernelSource sum_squares_source(uint32_t count, uint32_t first, const Variant& variant) {
  Composer composer = reduction(variant, true);
  composer.constant("COUNT", count)
      .constant("FIRST", first)
      .constant("RUN", kSquaresRun)
      .include("sum_squares.wgsl");
  return std::move(composer).finish(cat("sum of squares ", count));
}

KernelSource total_squares_source(uint32_t parts, const Variant& variant) {
  Composer composer = reduction(variant, false);
  composer.constant("COUNT", parts).include("sum_squares.wgsl");
  return std::move(composer).finish("global norm");
}

KernelSource adamw_source(uint32_t count) {
  Composer composer;
  composer.constant("COUNT", count)
      .bind('w', "values", "array<f32>")
      .bind('w', "gradients", "array<f32>")
      .bind('w', "moments", "array<f32>")
      .bind('r', "result", "array<f32>")
      .bind('u', "adam", "AdamParams")
      .include("adamw.wgsl");
  return std::move(composer).finish(cat("adamw ", count));
}

Groups adamw_groups(uint32_t count) { return fold_groups(div_ceil(count, 256u)); }

}  // namespace lapidary::kernels
