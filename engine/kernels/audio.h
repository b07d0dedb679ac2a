// Kernels of the audio tower that are not products or norms (gemma4.md §8.2). T = step.tokens
// tokens, the first of which has step.position before it: what these have left behind is read from
// `past`, whose rows are those of positions modulo kAudioPast.
#pragma once

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// Rows of `past`, and one more than a token may look back.
inline constexpr uint32_t kAudioPast = 16;

// The twin of WGSL's struct Frames (audio_subsample.wgsl).
struct alignas(16) Frames {
  // Row r of the result is made of rows 2 r + offset - 1 to 2 r + offset + 1; those that are not
  // there are zeros.
  uint32_t offset = 0;
  uint32_t in_rows = 0;
  uint32_t out_rows = 0;
  uint32_t pad = 0;
};
static_assert(sizeof(Frames) == 16);

// y = relu(norm(conv(x))): a convolution of 3 by 3 with stride 2 over rows and bins, padded by 1; a
// norm with mean and variance over the channels.
struct AudioSubsampleSpec {
  uint32_t bins = 128;
  uint32_t in = 1;     // channels
  uint32_t out = 128;  // at most 256
  float eps = 1e-6f;
  uint32_t out_bins() const { return (bins - 1) / 2 + 1; }
};
//   0 r x f32 [in_rows][bins][in]
//   1 r weights f32: [in][3 (rows)][3 (bins)][out], then the norm's [out]
//   2 w y f32 [out_rows][out_bins][out]   3 u Frames
KernelSource audio_subsample_source(const AudioSubsampleSpec& spec, const Variant& variant);
Groups audio_subsample_groups(const AudioSubsampleSpec& spec, uint32_t out_rows);

struct AudioAttentionSpec {
  uint32_t heads = 1;
  uint32_t head_dim = 128;
  uint32_t keys = 12;  // that a query sees, itself included; at most 16
  float k_scale = 1;   // times k
  float cap = 50;      // of a score: cap * tanh(score / cap)
};
// score(i, j) = (q_i q_scale) . (k_j k_scale + distances[i - j])
//   0 r q, 1 r k, 2 r v f32 [T][heads * head_dim]
//   3 r past f32 [2][kAudioPast][heads * head_dim]: k's, then v's
//   4 r distances f32 [keys][heads * head_dim]   5 r q_scale f32 [head_dim]
//   6 w out, as q   7 u step
KernelSource audio_attention_source(const AudioAttentionSpec& spec, const Variant& variant);
Groups audio_attention_groups(const AudioAttentionSpec& spec, uint32_t tokens);

// y = silu(rms(conv(x)) * norm), where conv(x)[t] = sum over j of w[j] x[t - taps + 1 + j].
struct AudioConvolutionSpec {
  uint32_t cols = 0;
  uint32_t taps = 5;  // at most kAudioPast
  float eps = 1e-6f;
};
//   0 r x f32 [T][cols]   1 r past f32 [kAudioPast][cols]
//   2 r weights f32: w [taps][cols], then norm [cols]   3 w y f32 [T][cols]   4 u step
// Dispatch: fold_groups(T).
KernelSource audio_convolution_source(const AudioConvolutionSpec& spec, const Variant& variant);

// y = rms(x + bias), without weights.
//   0 r x f32 [T][cols]   1 r bias f32 [cols]   2 w y f32 [T][cols]   3 u step
// Dispatch: fold_groups(T).
KernelSource bias_norm_source(uint32_t cols, float eps, const Variant& variant);

// y[t][i] = z[t][i] * sigmoid(z[t][gate_offset + i]), i below width: SiLU where gate_offset is 0.
struct SigmoidGateSpec {
  uint32_t width = 0;
  uint32_t z_stride = 0;
  uint32_t gate_offset = 0;
};
//   0 r z f32 [T][z_stride]   1 w y f32 [T][width]   2 u step
KernelSource sigmoid_gate_source(const SigmoidGateSpec& spec);
Groups sigmoid_gate_groups(const SigmoidGateSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
