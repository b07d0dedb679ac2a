#include "engine/kernels/sampling.h"

#include <algorithm>

#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kAdjustThreads = 64;
constexpr uint32_t kArgmaxSlice = 2048;  // logits a workgroup
constexpr uint32_t kTopkSlice = 4096;

uint32_t runs(uint32_t vocab, uint32_t slice) {
  return static_cast<uint32_t>((uint64_t{vocab} + slice - 1) / slice);
}
uint32_t bounded_k(const TopkSpec& spec) { return std::clamp(spec.k, 1u, kMaxTopK); }

void add_topk(Composer& composer, const TopkSpec& spec, const Variant& variant) {
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .constant("THREADS", kThreads)
      .constant("VOCAB", spec.vocab)
      .constant("SLICE", kTopkSlice)
      .constant("RUNS", runs(spec.vocab, kTopkSlice))
      .constant("K", bounded_k(spec))
      .include("bound.wgsl")
      .include("logit_key.wgsl")
      .include("sample_params.wgsl");
}

}  // namespace

KernelSource adjust_source(uint32_t vocab, const Variant&) {
  Composer composer;
  composer.constant("THREADS", kAdjustThreads)
      .constant("VOCAB", vocab)
      .bind('w', "logits", "array<f32>")
      .bind('r', "entries", "array<AdjustEntry>")
      .bind('u', "params", "AdjustParams")
      .include("adjust.wgsl");
  return std::move(composer).finish("adjust logits");
}

Groups adjust_groups(uint32_t entries) {
  entries = std::clamp(entries, 1u, kMaxAdjustEntries);
  return {(entries + kAdjustThreads - 1) / kAdjustThreads, 1, 1};
}

KernelSource argmax_partial_source(uint32_t vocab, const Variant& variant) {
  Composer composer;
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .constant("THREADS", kThreads)
      .constant("VOCAB", vocab)
      .constant("SLICE", kArgmaxSlice)
      .bind('r', "logits", "array<f32>")
      .bind('w', "partial", "array<vec2<u32>>")
      .include("logit_key.wgsl")
      .include("argmax_reduce.wgsl")
      .include("argmax_partial.wgsl");
  return std::move(composer).finish("argmax, partial");
}

Groups argmax_groups(uint32_t vocab) { return {runs(vocab, kArgmaxSlice), 1, 1}; }

uint64_t argmax_partial_bytes(uint32_t vocab) { return uint64_t{8} * runs(vocab, kArgmaxSlice); }

KernelSource argmax_final_source(uint32_t vocab, const Variant& variant) {
  Composer composer;
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .constant("THREADS", kThreads)
      .constant("RUNS", runs(vocab, kArgmaxSlice))
      .constant("RESULT_SLOTS", kResultSlots)
      .include("step.wgsl")
      .bind('r', "partial", "array<vec2<u32>>")
      .bind('w', "tokens", "array<u32>")
      .bind('w', "results", "array<u32>")
      .bind('w', "step", "Step")
      .include("argmax_reduce.wgsl")
      .include("argmax_final.wgsl");
  return std::move(composer).finish("argmax, final");
}

uint64_t topk_bytes(uint32_t k) {
  return sizeof(TopkHeader) + sizeof(TopkPair) * uint64_t{std::clamp(k, 1u, kMaxTopK)};
}

KernelSource topk_source(const TopkSpec& spec, const Variant& variant) {
  Composer composer;
  add_topk(composer, spec, variant);
  composer.bind('r', "logits", "array<f32>")
      .bind('w', "partial", "array<u32>")
      .bind('u', "params", "SampleParams")
      .include("workgroup_reduce.wgsl")
      .include("topk_select.wgsl")
      .include("topk.wgsl");
  return std::move(composer).finish("top-k");
}

Groups topk_groups(uint32_t vocab) { return {runs(vocab, kTopkSlice), 1, 1}; }

uint64_t topk_partial_bytes(const TopkSpec& spec) {
  return runs(spec.vocab, kTopkSlice) * (uint64_t{16} + uint64_t{8} * bounded_k(spec));
}

KernelSource sample_source(const TopkSpec& spec, const Variant& variant) {
  Composer composer;
  add_topk(composer, spec, variant);
  composer.constant("RESULT_SLOTS", kResultSlots)
      .constant("DRAW_SLOTS", kDrawSlots)
      .include("step.wgsl")
      .bind('r', "partial", "array<u32>")
      .bind('w', "candidates", "array<u32>")
      .bind('r', "logits", "array<f32>")
      .bind('u', "params", "SampleParams")
      .bind('r', "draws", "array<vec2<u32>>")
      .bind('w', "tokens", "array<u32>")
      .bind('w', "results", "array<u32>")
      .bind('w', "step", "Step")
      .include("workgroup_reduce.wgsl")
      .include("topk_select.wgsl")
      .include("sample.wgsl");
  return std::move(composer).finish("sample");
}

}  // namespace lapidary::kernels
