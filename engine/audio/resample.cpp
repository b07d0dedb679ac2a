#include "engine/audio/resample.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace lapidary::audio {
namespace {

constexpr double kPassband = 0.45;   // of the lower rate; the stopband begins at 0.5
constexpr double kAttenuation = 90;  // dB
// Weights that a table may have. Rates that ask for more share rows, so many for a sample of the
// lower rate, and outputs are interpolated between two of them, 100 dB exact.
constexpr size_t kMostWeights = 1 << 17;
constexpr double kSharedRows = 512;

// The modified Bessel function of the first kind, order 0.
double bessel(double x) {
  double term = 1;
  double sum = 1;
  for (int k = 1; term > 1e-12 * sum; ++k) {
    term *= x / (2 * k) * (x / (2 * k));
    sum += term;
  }
  return sum;
}

double sinc(double x) {
  const double angle = std::numbers::pi * x;
  return std::abs(angle) < 1e-9 ? 1 : std::sin(angle) / angle;
}

}  // namespace

Resampler::Resampler(uint32_t rate) {
  const uint32_t common = std::gcd(rate, kSampleRate);
  step_ = rate / common;
  phases_ = kSampleRate / common;
  if (rate == kSampleRate) return;
  const double lower = std::min(1.0, static_cast<double>(kSampleRate) / rate);
  const double transition = 2 * std::numbers::pi * (0.5 - kPassband) * lower;
  half_ = static_cast<uint32_t>(std::ceil((kAttenuation - 8) / (2.285 * transition) / 2));
  const size_t taps = size_t{2} * half_;
  rows_ = phases_ * taps <= kMostWeights ? phases_
                                         : static_cast<uint32_t>(std::ceil(kSharedRows * lower));
  const double cutoff = (0.5 + kPassband) * lower;  // of half the rate
  const double beta = 0.1102 * (kAttenuation - 8.7);
  for (uint32_t r = 0; r <= rows_; ++r) {
    double total = 0;
    for (size_t i = 0; i < taps; ++i) {
      const double x = static_cast<double>(i) - (half_ - 1) - static_cast<double>(r) / rows_;
      const double place = x / half_;
      const double window = bessel(beta * std::sqrt(std::max(0.0, 1 - place * place)));
      const double weight = sinc(cutoff * x) * window;
      total += weight;
      table_.push_back(static_cast<float>(weight));
    }
    for (float& weight : std::span(table_).last(taps)) weight = static_cast<float>(weight / total);
  }
  kept_.assign(half_ - 1, 0.0f);
}

double Resampler::sum(uint32_t row, const float* inputs) const {
  const size_t taps = size_t{2} * half_;
  const float* weights = table_.data() + row * taps;
  double sums[2] = {};
  for (size_t i = 0; i < taps; i += 2) {
    sums[0] += double{weights[i]} * inputs[i];
    sums[1] += double{weights[i + 1]} * inputs[i + 1];
  }
  return sums[0] + sums[1];
}

void Resampler::make(uint64_t end, std::vector<float>& out) {
  for (;; ++made_) {
    const uint64_t place = made_ * step_;
    const uint64_t input = place / phases_;
    if (input >= end) break;
    const float* inputs = kept_.data() + (input - first_);
    const auto phase = static_cast<uint32_t>(place % phases_);
    if (rows_ == phases_) {
      out.push_back(static_cast<float>(sum(phase, inputs)));
      continue;
    }
    const double at = static_cast<double>(phase) / phases_ * rows_;
    const auto row = static_cast<uint32_t>(at);
    const double low = sum(row, inputs);
    out.push_back(static_cast<float>(low + (at - row) * (sum(row + 1, inputs) - low)));
  }
  // What no later output needs goes.
  const uint64_t next = std::min(made_ * step_ / phases_, taken_);
  if (next - first_ > 4096) {
    kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(next - first_));
    first_ = next;
  }
}

void Resampler::push(std::span<const float> samples, std::vector<float>& out) {
  if (half_ == 0) {
    out.insert(out.end(), samples.begin(), samples.end());
    return;
  }
  kept_.insert(kept_.end(), samples.begin(), samples.end());
  taken_ += samples.size();
  if (taken_ > half_) make(taken_ - half_, out);
}

void Resampler::finish(std::vector<float>& out) {
  if (half_ == 0) return;
  kept_.resize(kept_.size() + half_, 0.0f);
  make(taken_, out);
}

}  // namespace lapidary::audio
