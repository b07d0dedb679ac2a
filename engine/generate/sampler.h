// Draws a token from logits on the CPU: for what the GPU's draw (kernels/sampling.h) leaves open.
// Penalties and biases are in the logits; the order is llama.cpp's: top_k, top_p, min_p,
// temperature, draw.
#pragma once

#include <cstdint>
#include <span>

#include "engine/generate/options.h"

namespace lapidary::generate {

struct Candidate {
  uint32_t id;
  float logit;
};

// Best first; equal ones by id.
inline bool is_likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The random bits of the n-th draw of a reply; equal seeds give equal bits everywhere.
uint64_t draw_bits(uint64_t seed, uint64_t n);

// sorted: all logits, best first, not empty; bits: of draw_bits.
uint32_t draw_token(const SamplingOptions& options, std::span<const Candidate> sorted,
                    uint64_t bits);

// Whether draw_token gives of `best`, the tokens at hand, what it would give of all that may come:
// best: sorted; the logits of all others are at most `floor`.
bool candidates_decide(const SamplingOptions& options, std::span<const Candidate> best,
                       float floor);

}  // namespace lapidary::generate
