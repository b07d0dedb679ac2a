// Draws a token from logits on the CPU: for what the GPU's draw (kernels/sampling.h) leaves open.
// Penalties and biases are in the logits; the order is llama.cpp's: top_k, top_p, min_p,
// temperature, draw.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "engine/generate/options.h"

namespace lapidary::generate {

struct Candidate {
  uint32_t id;
  float logit;
};

// The random bits of the n-th draw of a reply; equal seeds give equal bits everywhere.
uint64_t draw_bits(uint64_t seed, uint64_t n);

// candidates: the largest logits, best first, not empty; log_sum_exp: over the whole vocabulary;
// complete: the candidates are the whole vocabulary; bits: of draw_bits. Empty when the candidates
// do not suffice to draw exactly: then call again with all.
std::optional<uint32_t> draw_token(const SamplingOptions& options,
                                   std::span<const Candidate> candidates, float log_sum_exp,
                                   bool complete, uint64_t bits);

}  // namespace lapidary::generate
