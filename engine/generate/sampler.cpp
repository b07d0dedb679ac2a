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

uint32_t draw_token(const SamplingOptions& options, std::span<const Candidate> sorted,
                    uint64_t bits) {
  if (options.greedy()) return sorted[0].id;
  const auto share = [&](size_t i) {  // of the distribution at temperature 1, over the best's
    return std::exp(double{sorted[i].logit} - sorted[0].logit);
  };
  // The tokens that stay are a prefix.
  size_t kept = sorted.size();
  if (options.top_k > 0) kept = std::min<size_t>(kept, options.top_k);
  if (options.top_p < 1.0f) {
    double mass = 0;
    for (size_t i = 0; i < kept; ++i) mass += share(i);
    double sum = 0;
    for (size_t i = 0; i < kept; ++i) {
      sum += share(i);
      if (sum >= options.top_p * mass) kept = i + 1;
    }
  }
  if (options.min_p > 0.0f) {
    for (size_t i = 1; i < kept; ++i) {
      if (share(i) < options.min_p) kept = i;
    }
  }

  std::vector<double> weights(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    weights[i] = std::exp((double{sorted[i].logit} - sorted[0].logit) / options.temperature);
    total += weights[i];
  }
  double draw = static_cast<double>(bits >> 11) * 0x1p-53 * total;
  for (size_t i = 0; i + 1 < kept; ++i) {
    draw -= weights[i];
    if (draw < 0) return sorted[i].id;
  }
  return sorted[kept - 1].id;
}

bool candidates_decide(const SamplingOptions& options, std::span<const Candidate> best,
                       float floor) {
  if (best.empty()) return false;
  if (options.greedy()) return true;
  if (options.top_k > 0 && best.size() >= options.top_k) return true;
  // Nothing below the floor passes min_p, and nothing else asks about it.
  return options.top_p >= 1.0f && options.min_p > 0.0f &&
         std::exp(double{floor} - best[0].logit) < options.min_p;
}

}  // namespace lapidary::generate
