#include "engine/audio/resample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

namespace lapidary::audio {
namespace {

using Samples = std::vector<float>;

Samples tone(double hertz, uint32_t rate, size_t count) {
  Samples out;
  for (size_t i = 0; i < count; ++i)
    out.push_back(static_cast<float>(std::sin(2 * std::numbers::pi * hertz * i / rate)));
  return out;
}

Samples resampled(uint32_t rate, std::span<const float> in) {
  Resampler resampler(rate);
  Samples out;
  resampler.push(in, out);
  resampler.finish(out);
  return out;
}

double decibels(double ratio) { return 20 * std::log10(ratio); }

// Rates of whole ratios, of long ones, and such as have no table of their own.
constexpr uint32_t kRates[] = {1000,   8000,   11'025,  24'000, 44'100,
                               44'101, 48'000, 192'000, 383'999};

TEST(Resample, LengthIsRight) {
  for (const uint32_t rate : kRates) {
    for (const size_t count : {0, 1, 999}) {
      const uint64_t wanted = (count * uint64_t{kSampleRate} + rate - 1) / rate;
      EXPECT_EQ(resampled(rate, Samples(count)).size(), wanted) << rate;
    }
  }
}

TEST(Resample, PassbandIsFlatAndWithoutDelay) {
  for (const uint32_t rate : kRates) {
    const uint32_t lower = std::min(rate, kSampleRate);
    const size_t count = rate / 8;
    for (const double share : {0.0, 0.1, 0.33, 0.45}) {
      const double hertz = share * lower;
      Samples in = tone(hertz, rate, count);
      if (share == 0) std::ranges::fill(in, 1.0f);
      const Samples out = resampled(rate, in);
      double worst = 0;
      // Away from the ends, where it begins from nothing.
      const size_t edge = 60 * kSampleRate / lower;
      for (size_t i = edge; i + edge < out.size(); ++i) {
        const double wanted =
            share == 0 ? 1 : std::sin(2 * std::numbers::pi * hertz * i / kSampleRate);
        worst = std::max(worst, std::abs(out[i] - wanted));
      }
      EXPECT_LT(decibels(worst), -80) << rate << " Hz, tone of " << hertz;
    }
  }
}

TEST(Resample, AliasesAreMoreThan80DecibelsDown) {
  for (const uint32_t rate : kRates) {
    if (rate <= kSampleRate) continue;
    for (double hertz = kSampleRate / 2.0; hertz < rate / 2.0; hertz *= 1.4) {
      const Samples out = resampled(rate, tone(hertz, rate, rate / 16));
      double worst = 0;
      for (size_t i = 60; i + 60 < out.size(); ++i)
        worst = std::max<double>(worst, std::abs(out[i]));
      EXPECT_LT(decibels(worst), -80) << rate << " Hz, tone of " << hertz;
    }
  }
}

TEST(Resample, PiecesAreTheSame) {
  std::mt19937 random(5);
  Samples in(9'000);
  for (float& value : in) value = static_cast<float>(random()) / 4e9f;
  for (const uint32_t rate : {16'000u, 8000u, 44'100u, 383'999u}) {
    const Samples whole = resampled(rate, in);
    Resampler resampler(rate);
    Samples out;
    for (size_t at = 0; at < in.size();) {
      const size_t some = std::min<size_t>(random() % 1500, in.size() - at);
      resampler.push(std::span(in).subspan(at, some), out);
      at += some;
    }
    resampler.finish(out);
    EXPECT_EQ(out, whole) << rate;
  }
}

}  // namespace
}  // namespace lapidary::audio
