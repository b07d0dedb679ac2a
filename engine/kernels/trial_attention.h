// A model of attention in plain double loops, and a layer of attention kernels with its buffers:
// what the self-test and the kernel tests share.
#pragma once

#include <span>
#include <vector>

#include "engine/kernels/attention.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"

namespace lapidary::kernels {

// One layer's attention (gemma4.md §4.3, §4.5) with rope theta 10,000. The cache's values are
// rounded as the kernels round them. `norms` (q, then k) must outlive it.
class AttentionOracle {
 public:
  AttentionOracle(const AttentionSpec& spec, const std::vector<float>& norms)
      : spec_(spec), norms_(&norms) {}

  // Appends the K and V of the next position, from a token's raw projections or as they are.
  void append(const float* qkv);
  void append_rows(std::vector<float> k, std::vector<float> v);

  // The output [heads][head_dim] of the token with raw projections qkv at `position`, which sees no
  // later one.
  std::vector<double> attend(const float* qkv, uint32_t position) const {
    return attend(qkv, position, position);
  }
  // The same where it sees later ones, up to `last`.
  std::vector<double> attend(const float* qkv, uint32_t position, uint32_t last) const;

 private:
  // Norm (no weights when null) and rope of one head vector.
  std::vector<double> head(const float* x, const float* weight, bool turns,
                           uint32_t position) const;

  AttentionSpec spec_;
  const std::vector<float>* norms_;
  std::vector<std::vector<float>> k_;
  std::vector<std::vector<float>> v_;
};

// A head's K or V, as the cache gives it back.
void round_to_cache(std::span<float> row, const AttentionSpec& spec);

// A layer's buffers, for up to `tokens` tokens at once and positions below `context`.
struct TrialLayer {
  AttentionSpec spec;
  gpu::Buffer qkv, norms, rope, k, v, partial, stats, out, spans, last, step;
};
Result<TrialLayer> trial_layer(gpu::Device& device, const AttentionSpec& spec,
                               const std::vector<float>& norms, uint32_t tokens, uint32_t context);

struct TrialKernels {
  gpu::Kernel post, prefill, decode;
};
Task<Result<TrialKernels>> trial_kernels(gpu::Device& device, AttentionSpec spec, Variant variant);

// qkv_post, then prefill, of raw projections [tokens][qkv_rows] in spans that cover them:
// [tokens][heads][head_dim]. last: of each token, where the spec is of both ways.
Task<Result<std::vector<float>>> trial_prefill(gpu::Device& device, const TrialLayer& layer,
                                               const TrialKernels& kernels,
                                               std::span<const float> qkv,
                                               std::vector<TokenSpan> spans,
                                               std::span<const uint32_t> last = {});
// The same of one sequence, from `position` on.
Task<Result<std::vector<float>>> trial_prefill(gpu::Device& device, const TrialLayer& layer,
                                               const TrialKernels& kernels,
                                               std::span<const float> qkv, uint32_t position);
// What decode leaves of a token at `position`, put together: [heads][head_dim].
std::vector<float> merged_splits(const AttentionSpec& spec, std::span<const float> partial,
                                 std::span<const float> stats, uint32_t position);
// Decode of one token, its splits merged on the CPU: [heads][head_dim]. Surplus workgroups are
// dispatched on purpose. more: what such a kernel binds before the step, too.
Task<Result<std::vector<float>>> trial_decode(gpu::Device& device, const TrialLayer& layer,
                                              const gpu::Kernel& kernel, std::span<const float> qkv,
                                              uint32_t position, uint32_t sequence = 0,
                                              std::vector<gpu::Range> more = {});

// The largest difference; infinite when there is a NaN.
double largest_difference(std::span<const float> got, std::span<const double> wanted);

}  // namespace lapidary::kernels
