// Sampling kernels over one row of logits, f32 [vocab]: penalties and biases, greedy choice, and
// the K largest with what a sampler on the CPU needs to know of the rest.
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

// --- The K largest logits: two dispatches ---
// Exact for any logits; equal logits are taken by lowest id; sorted from large to small, equal ones
// by id. NaN counts as smallest (and comes back as -3.4e38).
inline constexpr uint32_t kMaxTopK = 256;
// What comes back: this header, then `count` pairs {u32 id, f32 logit}; topk_bytes(k) in all, at
// most 16 + 8 * 256 = 2,064 bytes. count = min(k, vocab).
struct TopkHeader {
  uint32_t count = 0;
  float max = 0;          // of all logits
  float log_sum_exp = 0;  // ln Σ exp(logit) over all logits: softmax at temperature 1
  uint32_t pad = 0;
};
static_assert(sizeof(TopkHeader) == 16);
struct TopkPair {
  uint32_t id = 0;
  float logit = 0;
};
struct TopkSpec {
  uint32_t vocab = 0;
  uint32_t k = 64;  // 1..kMaxTopK
};
uint64_t topk_bytes(uint32_t k);
// First, dispatch topk_groups(vocab):   0 r logits   1 w partial (topk_partial_bytes(spec))
KernelSource topk_partial_source(const TopkSpec& spec, const Variant& variant);
Groups topk_groups(uint32_t vocab);
uint64_t topk_partial_bytes(const TopkSpec& spec);
// Then one workgroup:   0 r partial   1 w candidates (topk_bytes(k))
KernelSource topk_final_source(const TopkSpec& spec, const Variant& variant);

}  // namespace lapidary::kernels
