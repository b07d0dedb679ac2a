#include "engine/kernels/elementwise_back.h"

#include <cmath>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kThreads = 256;

// One thread a value of T rows of `width`.
Groups rows_of(uint32_t width, uint32_t tokens) { return {div_ceil(width, kThreads), tokens, 1}; }

void add_gate(Composer& composer, const GateSpec& spec) {
  composer.flag("TWO_BUFFERS", spec.mul_stride != 0)
      .flag("SOFTCAP", 0)
      .constant("WIDTH", spec.width)
      .constant("Z_STRIDE", spec.z_stride)
      .constant("MUL_STRIDE", spec.mul_stride)
      .constant("MUL_OFFSET", spec.mul_offset)
      .bind('r', "z", "array<f32>");
  if (spec.mul_stride != 0) composer.bind('r', "mul", "array<f32>");
}

}  // namespace

KernelSource residual_norm_back_source(const ResidualNormSpec& spec, const Variant& variant) {
  Composer composer = residual_norm_composer(spec, variant);
  composer.bind('r', "x", "array<f32>");
  if (spec.has_delta) composer.bind('r', "delta", "array<f32>");
  composer.bind('r', "norms", "array<f32>");
  if (spec.has_pre) composer.bind('r', "dh", "array<f32>");
  composer.bind('w', "dx", "array<f32>");
  if (spec.has_delta) composer.bind('w', "ddelta", "array<f32>");
  composer.bind('u', "step", "Step").include("residual_norm_back.wgsl");
  return std::move(composer).finish(cat("residual norm back ", spec.cols));
}

KernelSource gate_source(const GateSpec& spec) {
  Composer composer;
  add_gate(composer, spec);
  composer.flag("QUICK", spec.quick);
  composer.bind('w', "y", "array<f32>").bind('u', "step", "Step").include("gate.wgsl");
  return std::move(composer).finish(cat("gate ", spec.width));
}

KernelSource gate_back_source(const GateSpec& spec) {
  Composer composer;
  add_gate(composer, spec);
  composer.bind('r', "dy", "array<f32>")
      .bind('w', "dz", "array<f32>")
      .bind('u', "step", "Step")
      .include("gate_back.wgsl");
  return std::move(composer).finish(cat("gate back ", spec.width));
}

Groups gate_groups(const GateSpec& spec, uint32_t tokens) { return rows_of(spec.width, tokens); }

KernelSource copy_rows_source(uint32_t cols, bool scatter) {
  Composer composer;
  composer.flag("SCATTER", scatter)
      .constant("COLS", cols)
      .bind('r', "x", "array<f32>")
      .bind('r', "rows", "array<u32>")
      .bind('w', "y", "array<f32>")
      .bind('u', "step", "Step")
      .include("copy_rows.wgsl");
  return std::move(composer).finish(cat(scatter ? "scatter rows " : "copy rows ", cols));
}

Groups copy_rows_groups(uint32_t cols, uint32_t rows) { return rows_of(cols, rows); }

KernelSource dropout_source(const DropoutSpec& spec) {
  Composer composer;
  composer.flag("ACCUMULATE", spec.accumulate)
      .constant("COLS", spec.cols)
      .constant("SALT", spec.salt)
      .constant("THRESHOLD", static_cast<uint32_t>(std::floor(double{spec.rate} * 4294967296.0)))
      .constant("KEEP_SCALE", static_cast<float>(1 / (1 - double{spec.rate})))
      .bind('r', "x", "array<f32>")
      .bind('w', "y", "array<f32>")
      .bind('u', "dropout", "DropoutParams")
      .bind('u', "step", "Step")
      .include("dropout.wgsl");
  return std::move(composer).finish(cat("dropout ", spec.cols));
}

Groups dropout_groups(const DropoutSpec& spec, uint32_t tokens) {
  return rows_of(spec.cols, tokens);
}

}  // namespace lapidary::kernels
