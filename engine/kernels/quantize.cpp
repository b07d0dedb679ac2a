#include "engine/kernels/quantize.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {

namespace {
constexpr uint32_t kThreads = 64;

KernelSource halves_source(const QuantizeSpec& spec) {
  Composer composer;
  composer.bind('r', "x", "array<vec4<f32>>")
      .bind('w', "quantized", "array<u32>")
      .bind('u', "step", "Step")
      .constant("THREADS", kThreads)
      .constant("X_ROW", spec.cols / 8)
      .constant("EACH", spec.each)
      .flag("SUBGROUPS", 0)
      .flag("TWO_BYTES", 0)
      .flag("LIGHT", spec.light)
      .include("step.wgsl")
      .include("bound.wgsl")
      .include("workgroup_reduce.wgsl")
      .include("activation_bytes.wgsl")
      .include("quantize_halves.wgsl");
  return std::move(composer).finish(cat("quantize ", dot_name(spec.dot), " x ", spec.cols));
}

}  // namespace

KernelSource quantize_source(const QuantizeSpec& spec) {
  if (spec.dot == Dot::kMatrix) return halves_source(spec);
  Composer composer;
  composer.bind('r', "x", "array<vec4<f32>>")
      .bind('w', "quantized", "array<vec4<u32>>")
      .bind('u', "step", "Step")
      .constant("THREADS", kThreads)
      .constant("UNITS", spec.cols / 32)
      .constant("VECTORS", quantized_vectors(spec.dot))
      .constant("EACH", spec.each)
      .flag("TWO_BYTES", spec.dot == Dot::kInt16)
      .flag("EIGHT", 8)
      .include("quantize.wgsl");
  return std::move(composer).finish(cat("quantize ", dot_name(spec.dot), " x ", spec.cols));
}

Groups quantize_groups(const QuantizeSpec& spec, uint32_t tokens) {
  const uint32_t rows = tokens * spec.each;
  if (spec.dot == Dot::kMatrix) return fold_groups(rows);
  return {div_ceil(rows, kThreads), spec.cols / 32, 1};
}

}  // namespace lapidary::kernels
