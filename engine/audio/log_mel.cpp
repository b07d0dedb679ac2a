#include "engine/audio/log_mel.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lapidary::audio {
namespace {

constexpr uint32_t kFrame = 320;  // samples
constexpr uint32_t kFft = 512;
constexpr uint32_t kBits = 9;
constexpr uint32_t kBins = kFft / 2 + 1;
constexpr double kFloor = 0.001;

double mel_of(double hertz) { return 2595 * std::log10(1 + hertz / 700); }
double hertz_of(double mel) { return 700 * (std::pow(10, mel / 2595) - 1); }

}  // namespace

LogMel::LogMel(MelFloor floor) : floor_(floor), real_(kFft), imaginary_(kFft) {
  for (uint32_t i = 0; i < kFrame; ++i)
    window_.push_back(0.5 - 0.5 * std::cos(2 * std::numbers::pi * i / kFrame));
  for (uint32_t i = 0; i < kFft / 2; ++i) {
    const double angle = -2 * std::numbers::pi * i / kFft;
    turns_.insert(turns_.end(), {std::cos(angle), std::sin(angle)});
  }
  const double top = kSampleRate / 2.0;
  const auto edge = [&](uint32_t i) { return hertz_of(mel_of(top) * i / (kMelBins + 1)); };
  for (uint32_t m = 0; m < kMelBins; ++m) {
    const double low = edge(m);
    const double middle = edge(m + 1);
    const double high = edge(m + 2);
    Filter filter{.at = static_cast<uint32_t>(weights_.size())};
    for (uint32_t bin = 0; bin < kBins; ++bin) {
      const double hertz = top * bin / (kBins - 1);
      const double weight =
          std::min((hertz - low) / (middle - low), (high - hertz) / (high - middle));
      if (weight <= 0) continue;
      if (filter.count++ == 0) filter.first = bin;
      weights_.push_back(weight);
    }
    filters_.push_back(filter);
  }
  restart();
}

void LogMel::restart() { kept_.assign(kHop, 0.0f); }

// In place: a real signal in bit-reversed order to its spectrum.
void LogMel::transform() {
  for (uint32_t size = 2; size <= kFft; size *= 2) {
    for (uint32_t start = 0; start < kFft; start += size) {
      for (uint32_t i = 0; i < size / 2; ++i) {
        const uint32_t a = start + i;
        const uint32_t b = a + size / 2;
        const double* turn = &turns_[size_t{2} * i * (kFft / size)];
        const double real = real_[b] * turn[0] - imaginary_[b] * turn[1];
        const double imaginary = real_[b] * turn[1] + imaginary_[b] * turn[0];
        real_[b] = real_[a] - real;
        imaginary_[b] = imaginary_[a] - imaginary;
        real_[a] += real;
        imaginary_[a] += imaginary;
      }
    }
  }
}

void LogMel::add_frame(const float* samples, std::vector<float>& frames) {
  std::ranges::fill(real_, 0);
  std::ranges::fill(imaginary_, 0);
  for (uint32_t i = 0; i < kFrame; ++i) {
    uint32_t reversed = 0;
    for (uint32_t bit = 0; bit < kBits; ++bit) reversed |= (i >> bit & 1) << (kBits - 1 - bit);
    real_[reversed] = samples[i] * window_[i];
  }
  transform();
  for (uint32_t bin = 0; bin < kBins; ++bin)
    real_[bin] = std::sqrt(real_[bin] * real_[bin] + imaginary_[bin] * imaginary_[bin]);
  for (const Filter& filter : filters_) {
    double sum = 0;
    for (uint32_t i = 0; i < filter.count; ++i)
      sum += real_[filter.first + i] * weights_[filter.at + i];
    sum = floor_ == MelFloor::kAdded ? sum + kFloor : std::max(sum, kFloor);
    frames.push_back(static_cast<float>(std::log(sum)));
  }
}

void LogMel::push(std::span<const float> samples, std::vector<float>& frames) {
  kept_.insert(kept_.end(), samples.begin(), samples.end());
  size_t at = 0;
  // A frame is made when the sample after it has come.
  for (; kept_.size() - at > kFrame; at += kHop) add_frame(kept_.data() + at, frames);
  kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(at));
}

}  // namespace lapidary::audio
