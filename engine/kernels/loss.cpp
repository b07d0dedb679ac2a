#include "engine/kernels/loss.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kThreads = 256;

// logits: how they are bound, first of all; 0: not at all.
Composer loss_composer(const LossSpec& spec, const Variant& variant, char logits) {
  Composer composer;
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .flag("SOFTCAP", spec.cap > 0)
      .flag("LOGITS", logits != 0)
      .constant("THREADS", kThreads)
      .constant("VOCAB", spec.vocab)
      .constant("CHUNK", spec.chunk)
      .constant("CAP", spec.cap);
  if (logits != 0) composer.bind(logits, "logits", "array<f32>");
  composer.bind('r', "targets", "array<u32>");
  return composer;
}

KernelSource finish(Composer composer, std::string_view module, std::string label) {
  composer.bind('u', "step", "Step")
      .include("cross_entropy.wgsl")
      .include("workgroup_reduce.wgsl")
      .include(module);
  return std::move(composer).finish(std::move(label));
}

}  // namespace

KernelSource cross_entropy_sum_source(const LossSpec& spec, const Variant& variant) {
  Composer composer = loss_composer(spec, variant, 'r');
  composer.bind('w', "state", "array<vec4<f32>>");
  return finish(std::move(composer), "cross_entropy_sum.wgsl", cat("cross entropy ", spec.chunk));
}

Groups cross_entropy_sum_groups(uint32_t rows) { return fold_groups(rows); }

KernelSource cross_entropy_loss_source(const LossSpec& spec, const Variant& variant) {
  Composer composer = loss_composer(spec, variant, 0);
  composer.bind('r', "state", "array<vec4<f32>>")
      .bind('w', "loss", "array<f32>")
      .bind('u', "params", "LossParams");
  return finish(std::move(composer), "cross_entropy_loss.wgsl", "cross entropy loss");
}

KernelSource cross_entropy_back_source(const LossSpec& spec, const Variant& variant) {
  Composer composer = loss_composer(spec, variant, 'w');
  composer.bind('r', "state", "array<vec4<f32>>").bind('u', "params", "LossParams");
  return finish(std::move(composer), "cross_entropy_back.wgsl",
                cat("cross entropy back ", spec.chunk));
}

Groups cross_entropy_back_groups(const LossSpec& spec, uint32_t rows) {
  return {div_ceil(spec.chunk, kThreads), rows, 1};
}

}  // namespace lapidary::kernels
