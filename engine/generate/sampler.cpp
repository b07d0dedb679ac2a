#include "engine/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace lapidary::generate {

// SplitMix64 (Steele, Lea, Flood 2014).
uint64_t draw_bits(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

std::optional<uint32_t> draw_token(const SamplingOptions& options,
                                   std::span<const Candidate> candidates, float log_sum_exp,
                                   bool complete, uint64_t bits) {
  if (options.greedy()) return candidates[0].id;
  const double best = candidates[0].logit;

  // The candidates that stay are a prefix of the list. `closed`: what lies past the list cannot
  // belong to it.
  size_t kept = candidates.size();
  bool closed = complete;
  // Mass of the distribution that top_p cuts, relative to exp(best): of the top_k tokens, or of
  // all.
  double mass = std::exp(static_cast<double>(log_sum_exp) - best);
  if (options.top_k > 0 && options.top_k <= kept) {
    kept = options.top_k;
    closed = true;
    mass = 0;
    for (size_t i = 0; i < kept; ++i) mass += std::exp(candidates[i].logit - best);
  } else if (options.top_k > 0 && !complete) {
    return std::nullopt;
  }
  if (options.top_p < 1.0f) {
    double sum = 0;
    for (size_t i = 0; i < kept; ++i) {
      sum += std::exp(candidates[i].logit - best);
      if (sum >= options.top_p * mass) {
        kept = i + 1;
        closed = true;
        break;
      }
    }
  }
  if (options.min_p > 0.0f) {
    for (size_t i = 1; i < kept; ++i) {
      if (std::exp(candidates[i].logit - best) < options.min_p) {
        kept = i;
        closed = true;
        break;
      }
    }
  }
  if (!closed) return std::nullopt;

  std::vector<double> weights(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    weights[i] = std::exp((candidates[i].logit - best) / options.temperature);
    total += weights[i];
  }
  double draw = static_cast<double>(bits >> 11) * 0x1p-53 * total;
  for (size_t i = 0; i + 1 < kept; ++i) {
    draw -= weights[i];
    if (draw < 0) return candidates[i].id;
  }
  return candidates[kept - 1].id;
}

}  // namespace lapidary::generate
