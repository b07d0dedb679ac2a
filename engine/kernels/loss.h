// Cross-entropy of softcapped logits, over chunks of the vocabulary, so that no matrix of all words
// ever exists. A pass over the chunks sums (cross_entropy_sum), the loss follows, and a second pass
// makes gradients of the chunks' logits, made anew. In every kernel R = step.tokens rows, and the
// chunk's first word is step.position, of step.spans words. A target outside the vocabulary adds no
// loss and has no gradient.
#pragma once

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

struct LossSpec {
  uint32_t vocab = 0;
  uint32_t chunk = 0;  // words of a chunk, the stride of logits; the last may have fewer
  float cap = 0;       // of the softcap; 0: none
};

//   0 r logits f32 [R][chunk]   1 r targets u32 [R]   2 w state f32 [R][4]   3 u step
// state: the largest logit, the sum of exp(logit - largest), the target's logit. Chunks in order,
// the first of which starts anew.
KernelSource cross_entropy_sum_source(const LossSpec& spec, const Variant& variant);
Groups cross_entropy_sum_groups(uint32_t rows);
//   0 r targets   1 r state   2 w loss f32 [1]: added to   3 u {factor: f32}   4 u step
KernelSource cross_entropy_loss_source(const LossSpec& spec, const Variant& variant);
//   0 w logits: become factor dL/dlogit before the softcap   1 r targets   2 r state
//   3 u {factor: f32}   4 u step
KernelSource cross_entropy_back_source(const LossSpec& spec, const Variant& variant);
Groups cross_entropy_back_groups(const LossSpec& spec, uint32_t rows);

}  // namespace lapidary::kernels
