#include "engine/kernels/audio.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kQueries = 16;  // of a workgroup

}  // namespace

KernelSource audio_subsample_source(const AudioSubsampleSpec& spec, const Variant& variant) {
  Composer composer;
  composer.flag("LIGHT", variant.light)
      .constant("IN_BINS", spec.bins)
      .constant("OUT_BINS", spec.out_bins())
      .constant("IN", spec.in)
      .constant("OUT", spec.out)
      .constant("EPS", spec.eps)
      .bind('r', "x", "array<f32>")
      .bind('r', "weights", "array<f32>")
      .bind('w', "y", "array<f32>")
      .bind('u', "frames", "Frames")
      .include("audio_subsample.wgsl");
  return std::move(composer).finish(cat("audio subsample ", spec.in, " to ", spec.out));
}

Groups audio_subsample_groups(const AudioSubsampleSpec& spec, uint32_t out_rows) {
  return {div_ceil(spec.out_bins(), kThreads / spec.out), out_rows, 1};
}

KernelSource audio_attention_source(const AudioAttentionSpec& spec, const Variant& variant) {
  Composer composer;
  composer.flag("LIGHT", variant.light)
      .flag("SOFTCAP", 1)
      .constant("CAP", spec.cap)
      .constant("HEADS", spec.heads)
      .constant("HEAD_DIM", spec.head_dim)
      .constant("KEYS", spec.keys)
      .constant("K_SCALE", spec.k_scale)
      .constant("PAST", kAudioPast);
  for (const std::string_view name : {"q", "k", "v", "past", "distances", "q_scale"})
    composer.bind('r', name, "array<f32>");
  composer.bind('w', "out", "array<f32>").bind('u', "step", "Step");
  composer.include("audio_attention.wgsl");
  return std::move(composer).finish(cat("audio attention ", spec.heads, "x", spec.head_dim));
}

Groups audio_attention_groups(const AudioAttentionSpec& spec, uint32_t tokens) {
  return {div_ceil(tokens, kQueries), spec.heads, 1};
}

KernelSource audio_convolution_source(const AudioConvolutionSpec& spec, const Variant& variant) {
  Composer composer = reducing_composer(variant, kThreads);
  composer.constant("COLS", spec.cols)
      .constant("EPS", spec.eps)
      .constant("TAPS", spec.taps)
      .constant("PAST", kAudioPast)
      .bind('r', "x", "array<f32>")
      .bind('r', "past", "array<f32>")
      .bind('r', "weights", "array<f32>")
      .bind('w', "y", "array<f32>")
      .bind('u', "step", "Step")
      .include("audio_convolution.wgsl");
  return std::move(composer).finish(cat("audio convolution ", spec.cols));
}

KernelSource bias_norm_source(uint32_t cols, float eps, const Variant& variant) {
  Composer composer = reducing_composer(variant, kThreads);
  composer.constant("COLS", cols)
      .constant("EPS", eps)
      .bind('r', "x", "array<f32>")
      .bind('r', "bias", "array<f32>")
      .bind('w', "y", "array<f32>")
      .bind('u', "step", "Step")
      .include("bias_norm.wgsl");
  return std::move(composer).finish(cat("bias norm ", cols));
}

KernelSource sigmoid_gate_source(const SigmoidGateSpec& spec) {
  Composer composer;
  composer.constant("WIDTH", spec.width)
      .constant("Z_STRIDE", spec.z_stride)
      .constant("GATE_OFFSET", spec.gate_offset)
      .bind('r', "z", "array<f32>")
      .bind('w', "y", "array<f32>")
      .bind('u', "step", "Step")
      .include("sigmoid_gate.wgsl");
  return std::move(composer).finish(cat("sigmoid gate ", spec.width));
}

Groups sigmoid_gate_groups(const SigmoidGateSpec& spec, uint32_t tokens) {
  return {div_ceil(spec.width, kThreads), tokens, 1};
}

}  // namespace lapidary::kernels
