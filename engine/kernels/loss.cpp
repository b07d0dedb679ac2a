#include "engine/kernels/loss.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kThreads = 256;

void add_shape(Composer& composer, const LossSpec& spec, const Variant& variant) {
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .flag("SOFTCAP", spec.cap > 0)
      .constant("THREADS", kThreads)
      .constant("VOCAB", spec.vocab)
      .constant("CHUNK", spec.chunk)
      .constant("CAP", spec.cap);
}

}  // namespace

KernelSource cross_entropy_sum_source(const LossSpec& spec, const Variant& variant) {
  Composer composer;
  add_shape(composer, spec, variant);
  composer.flag("LOGITS", 1)
      .bind('r', "logits", "array<f32>")
      .bind('r', "targets", "array<u32>")
      .bind('w', "state", "array<vec4<f32>>")
      .bind('u', "step", "Step")
      .include("cross_entropy.wgsl")
      .include("workgroup_reduce.wgsl")
      .include("cross_entropy_sum.wgsl");
  return std::move(composer).finish(cat("cross entropy ", spec.chunk));
}

Groups cross_entropy_sum_groups(uint32_t rows) { return fold_groups(rows); }

KernelSource cross_entropy_loss_source(const LossSpec& spec, const Variant& variant) {
  Composer composer;
  add_shape(composer, spec, variant);
  composer.flag("LOGITS", 0)
      .bind('r', "targets", "array<u32>")
      .bind('r', "state", "array<vec4<f32>>")
      .bind('w', "loss", "array<f32>")
      .bind('u', "params", "LossParams")
      .bind('u', "step", "Step")
      .include("cross_entropy.wgsl")
      .include("workgroup_reduce.wgsl")
      .include("cross_entropy_loss.wgsl");
  return std::move(composer).finish("cross entropy loss");
}

KernelSource cross_entropy_back_source(const LossSpec& spec, const Variant& variant) {
  Composer composer;
  Variant plain = variant;
  plain.subgroups = false;
  add_shape(composer, spec, plain);
  composer.flag("LOGITS", 1)
      .bind('w', "logits", "array<f32>")
      .bind('r', "targets", "array<u32>")
      .bind('r', "state", "array<vec4<f32>>")
      .bind('u', "params", "LossParams")
      .bind('u', "step", "Step")
      .include("cross_entropy.wgsl")
      .include("cross_entropy_back.wgsl");
  return std::move(composer).finish(cat("cross entropy back ", spec.chunk));
}

Groups cross_entropy_back_groups(const LossSpec& spec, uint32_t rows) {
  return {div_ceil(spec.chunk, kThreads), rows, 1};
}

}  // namespace lapidary::kernels
