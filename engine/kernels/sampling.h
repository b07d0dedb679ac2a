// Sampling kernels over one row of logits, f32 [vocab]: penalties and biases, greedy choice, the K
// largest, and a draw among them or among all.
#pragma once

#include <cstdint>

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// The next token's id goes to results[step.position % kResultSlots].
inline constexpr uint32_t kResultSlots = 64;
// A logit's bias for a token that must not be chosen. (WGSL gives no promise about infinities.)
inline constexpr float kSuppressed = -1e30f;

// --- Penalties and biases, sparse and in place ---
// One entry a token id; an id occurs at most once. Applied in this order (llama.cpp's penalties,
// OpenAI's frequency and presence):
//   if count > 0: l = l > 0 ? l / repeat : l * repeat;  l -= count * frequency + presence
//   l += bias, then clamped to ±1e30
struct AdjustEntry {
  uint32_t id = 0;  // ids >= vocab are ignored
  float count = 0;  // occurrences in the penalty window; 0: only the bias applies
  float bias = 0;   // kSuppressed forbids the token
  uint32_t pad = 0;
};
static_assert(sizeof(AdjustEntry) == 16);
struct alignas(16) AdjustParams {
  uint32_t entries = 0;  // n, at most kMaxAdjustEntries
  float repeat_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
};
static_assert(sizeof(AdjustParams) == 16);
inline constexpr uint32_t kMaxAdjustEntries = 1u << 20;
// 0 w logits f32 [vocab]   1 r entries AdjustEntry[n]   2 u params. Dispatch: adjust_groups(n).
KernelSource adjust_source(uint32_t vocab, const Variant& variant);
Groups adjust_groups(uint32_t entries);

// --- Greedy choice: two dispatches ---
// The id of the largest logit; the lowest such id when several are equal; NaN counts as smallest.
// First, dispatch argmax_groups(vocab):   0 r logits   1 w partial (argmax_partial_bytes(vocab))
KernelSource argmax_partial_source(uint32_t vocab, const Variant& variant);
Groups argmax_groups(uint32_t vocab);
uint64_t argmax_partial_bytes(uint32_t vocab);
// Then one workgroup:
//   0 r partial
//   1 w tokens   u32 [>= 1]: tokens[0] = id
//   2 w results  u32 [kResultSlots]: results[step.position % kResultSlots] = id, with the position
//                before it advances
//   3 w step     Step: position += 1
KernelSource argmax_final_source(uint32_t vocab, const Variant& variant);

// --- A draw, by way of the K largest logits: two dispatches ---
// How a token is drawn: llama.cpp's order, top_k, top_p, min_p, temperature (generate/sampler.h).
// With none of the three cuts any token of the vocabulary may come; else one of the candidates, the
// `want` largest logits, and if a token past them could come too, none: kNoToken.
inline constexpr uint32_t kMaxTopK = 256;
inline constexpr uint32_t kNoToken = 0xffffffff;
struct alignas(16) SampleParams {
  float temperature = 1;     // above 0
  uint32_t top_k = 0;        // 0: off
  float top_p = 1;           // 1: off
  float min_p = 0;           // 0: off
  uint32_t want = kMaxTopK;  // candidates, at least 1
  uint32_t pad[3] = {};
};
static_assert(sizeof(SampleParams) == 32);
// The random bits at one position: 23 bits of `first` pick a candidate, or with no cut a run of
// logits, in which 23 bits of `second` pick the token.
struct Draw {
  uint32_t first = 0;
  uint32_t second = 0;
};
inline constexpr uint32_t kDrawSlots = 1024;
// What comes back: this header, then `count` pairs {u32 id, f32 logit}, exact for any logits: equal
// ones are taken by lowest id; sorted from large to small, equal ones by id. NaN counts as smallest
// (and comes back as -3.4e38). topk_bytes(k) in all, at most 32 + 8 * 256 = 2,080 bytes.
struct TopkHeader {
  uint32_t count = 0;     // min(want, k, vocab)
  float max = 0;          // of all logits
  float log_sum_exp = 0;  // ln Σ exp(logit) over all logits: softmax at temperature 1
  uint32_t chosen = kNoToken;
  float chosen_logit = 0;
  uint32_t pad[3] = {};
};
static_assert(sizeof(TopkHeader) == 32);
struct TopkPair {
  uint32_t id = 0;
  float logit = 0;
};
struct TopkSpec {
  uint32_t vocab = 0;
  uint32_t k = 64;  // 1..kMaxTopK; SampleParams::want may ask for fewer
};
uint64_t topk_bytes(uint32_t k);
// First, dispatch topk_groups(vocab):
//   0 r logits   1 w partial (topk_partial_bytes(spec))   2 u SampleParams
KernelSource topk_source(const TopkSpec& spec, const Variant& variant);
Groups topk_groups(uint32_t vocab);
uint64_t topk_partial_bytes(const TopkSpec& spec);
// Then one workgroup:
//   0 r partial   1 w candidates (topk_bytes(k))   2 r logits   3 u SampleParams
//   4 r draws     Draw [kDrawSlots]: that of step.position % kDrawSlots
//   5 w tokens, 6 w results, 7 w step   as the greedy choice; tokens[0] = 0 with kNoToken
KernelSource sample_source(const TopkSpec& spec, const Variant& variant);

}  // namespace lapidary::kernels
