#include "engine/audio/log_mel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/audio/wav.h"
#include "engine/reference/fixture.h"

namespace lapidary::audio {
namespace {

using Samples = std::vector<float>;

// What mel.f32.gz was made from.
Samples recording() {
  Samples out;
  for (int i = 0; i < 11'000; ++i) {
    const double t = i / 16'000.0;
    const double turn = 2 * std::numbers::pi * t;
    out.push_back(static_cast<float>(0.4 * std::sin(440 * turn) +
                                     0.2 * std::sin(1800 * turn * (1 + 0.3 * t)) +
                                     0.05 * std::sin(5200 * turn)));
  }
  return out;
}

Samples frames_of(std::span<const float> samples, MelFloor floor = MelFloor::kAdded) {
  LogMel mel(floor);
  Samples frames;
  mel.push(samples, frames);
  return frames;
}

TEST(LogMel, IsThatOfADoublePrecisionReference) {
  const std::vector<float> linear = reference::read_fixture_floats("audio/mel.f32.gz");
  const Samples added = frames_of(recording());
  const Samples clamped = frames_of(recording(), MelFloor::kClamped);
  ASSERT_EQ(added.size(), linear.size());
  ASSERT_EQ(clamped.size(), linear.size());
  for (size_t i = 0; i < linear.size(); ++i) {
    ASSERT_NEAR(added[i], std::log(linear[i] + 0.001), 2e-6) << i;
    ASSERT_NEAR(clamped[i], std::log(std::max(linear[i], 0.001f)), 2e-6) << i;
  }
}

TEST(LogMel, IsThatOfHf) {
  const std::vector<std::byte> file = reference::read_fixture("audio/noise.wav.gz");
  WavReader reader;
  Samples samples;
  ASSERT_TRUE(reader.push(file, samples));
  ASSERT_TRUE(reader.finish());
  ASSERT_EQ(samples.size(), 8000u);
  const std::vector<float> wanted = reference::read_fixture_floats("audio/noise_mel.f32.gz");
  const Samples frames = frames_of(samples);
  ASSERT_EQ(frames.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(frames[i], wanted[i], 1e-5) << i;
}

TEST(LogMel, PiecesAreTheSame) {
  const Samples samples = recording();
  const Samples whole = frames_of(samples);
  LogMel mel;
  for (const size_t piece : {1, 159, 160, 161, 1000}) {
    Samples frames;
    for (size_t at = 0; at < samples.size(); at += piece)
      mel.push(std::span(samples).subspan(at, std::min(piece, samples.size() - at)), frames);
    EXPECT_EQ(frames, whole) << piece;
    mel.restart();
  }
}

TEST(LogMel, FrameCounts) {
  for (const uint32_t count : {0u, 1u, 160u, 161u, 320u, 321u, 480u, 481u, 20'800u}) {
    EXPECT_EQ(frames_of(Samples(count)).size(), size_t{frame_count(count)} * kMelBins) << count;
  }
  EXPECT_EQ(frame_count(20'800), 129u);
  EXPECT_EQ(soft_tokens(129), 33u);
}

}  // namespace
}  // namespace lapidary::audio
