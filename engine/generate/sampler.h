// Draws the next token from the largest logits. The GPU has applied penalties and biases before;
// the order here is llama.cpp's: top_k, top_p, min_p, temperature, draw.
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

class Sampler {
 public:
  Sampler(const SamplingOptions& options, uint64_t seed) : options_(options), state_(seed) {}

  // candidates: the largest logits, best first, not empty; log_sum_exp: over the whole vocabulary;
  // complete: the candidates are the whole vocabulary. Empty when they do not suffice to draw
  // exactly: then call again with all.
  std::optional<uint32_t> sample(std::span<const Candidate> candidates, float log_sum_exp,
                                 bool complete);

 private:
  double next_uniform();  // in [0, 1)

  SamplingOptions options_;
  uint64_t state_;
};

}  // namespace lapidary::generate
