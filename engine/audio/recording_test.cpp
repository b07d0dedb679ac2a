#include "engine/audio/recording.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/audio/test_wav.h"

namespace lapidary::audio {
namespace {

using Samples = std::vector<float>;

Samples noise(size_t count) {
  Samples out(count);
  uint32_t state = 1;
  for (float& value : out) {
    state = state * 1664525 + 1013904223;
    value = static_cast<float>(state >> 8) / (1 << 24) - 0.5f;
  }
  return out;
}

Recording of_mono(uint32_t rate = kSampleRate) {
  auto recording = Recording::of_samples(rate, 1);
  EXPECT_TRUE(recording);
  return *std::move(recording);
}

std::vector<Frames> take_all(Recording& recording) {
  std::vector<Frames> out;
  while (auto frames = recording.take(true)) out.push_back(*std::move(frames));
  return out;
}

Samples mel_of(std::span<const float> samples) {
  Samples frames;
  LogMel().push(samples, frames);
  return frames;
}

TEST(Recording, EachWindowIsItsOwn) {
  const Samples samples = noise(kWindowSamples + 5000);
  Recording recording = of_mono();
  ASSERT_TRUE(recording.push_samples(samples));
  // The second window goes on.
  ASSERT_EQ(take_all(recording).size(), 1u);
  recording = of_mono();
  ASSERT_TRUE(recording.push_samples(samples));
  ASSERT_TRUE(recording.finish());
  const std::vector<Frames> windows = take_all(recording);
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[0].values, mel_of(std::span(samples).first(kWindowSamples)));
  EXPECT_EQ(windows[0].values.size(), size_t{kWindowFrames} * kMelBins);
  EXPECT_EQ(windows[1].values, mel_of(std::span(samples).subspan(kWindowSamples)));
  EXPECT_EQ(windows[1].window, 1u);
  EXPECT_TRUE(windows[0].last && windows[1].last);
  EXPECT_DOUBLE_EQ(recording.seconds(), 30.3125);
}

TEST(Recording, PiecesJoinToWindows) {
  const Samples samples = noise(kWindowSamples + 5000);
  Recording recording = of_mono();
  std::vector<Frames> windows(1);
  const auto take = [&] {
    while (auto frames = recording.take(false)) {
      EXPECT_EQ(frames->window, windows.size() - 1);
      Samples& values = windows.back().values;
      values.insert(values.end(), frames->values.begin(), frames->values.end());
      if (frames->last) windows.emplace_back();
    }
  };
  for (size_t at = 0; at < samples.size(); at += 999) {
    ASSERT_TRUE(recording.push_samples(
        std::span(samples).subspan(at, std::min<size_t>(999, samples.size() - at))));
    take();
  }
  ASSERT_TRUE(recording.finish());
  take();
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_EQ(windows[0].values, mel_of(std::span(samples).first(kWindowSamples)));
  EXPECT_EQ(windows[1].values, mel_of(std::span(samples).subspan(kWindowSamples)));
}

TEST(Recording, AWindowTooShortForAFrameIsLeftOut) {
  for (const auto& [more, windows] : {std::pair{0u, 1u}, {1u, 1u}, {160u, 1u}, {161u, 2u}}) {
    Recording recording = of_mono();
    ASSERT_TRUE(recording.push_samples(Samples(kWindowSamples + more)));
    ASSERT_TRUE(recording.finish());
    EXPECT_EQ(take_all(recording).size(), windows) << more;
  }
}

TEST(Recording, OfAWavFileIsThatOfItsSamples) {
  const Samples samples = noise(3000);
  std::string data;
  for (const float value : samples) data += raw(value) + raw(0.5f * value);
  const std::string file = riff(format_chunk(3, 2, 22'050, 32) + chunk("data", data));
  Recording wav;
  ASSERT_TRUE(wav.push(bytes_of(file)));
  ASSERT_TRUE(wav.finish());
  Recording mono = of_mono(22'050);
  Samples mixed;
  for (const float value : samples) mixed.push_back(0.75f * value);
  ASSERT_TRUE(mono.push_samples(mixed));
  ASSERT_TRUE(mono.finish());
  const auto a = wav.take(true);
  const auto b = mono.take(true);
  ASSERT_TRUE(a && b);
  ASSERT_EQ(a->values.size(), b->values.size());
  for (size_t i = 0; i < a->values.size(); ++i) EXPECT_NEAR(a->values[i], b->values[i], 1e-5);
}

TEST(Recording, OfEightChannelsAt192Kilohertz) {
  auto recording = Recording::of_samples(192'000, 8);
  ASSERT_TRUE(recording);
  ASSERT_TRUE(recording->push_samples(Samples(192'000 * 8)));
  ASSERT_TRUE(recording->finish());
  EXPECT_EQ(recording->take(true)->values.size(), size_t{frame_count(16'000)} * kMelBins);
}

TEST(Recording, RefusesWhatIsTooShort) {
  for (const size_t count : {0, 1, 160}) {
    Recording recording = of_mono();
    ASSERT_TRUE(recording.push_samples(Samples(count)));
    EXPECT_EQ(recording.finish().error().code, ErrorCode::kInvalidArgument) << count;
  }
  Recording wav;
  ASSERT_TRUE(wav.push(bytes_of(riff(format_chunk(1, 1, 8000, 16) + chunk("data", "")))));
  EXPECT_EQ(wav.finish().error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(Recording().finish().error().code, ErrorCode::kTruncated);
}

TEST(Recording, RefusesWhatIsNoSound) {
  EXPECT_EQ(Recording::of_samples(999, 1).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(Recording::of_samples(16'000, 33).error().code, ErrorCode::kUnsupported);
  auto stereo = Recording::of_samples(16'000, 2);
  EXPECT_EQ(stereo->push_samples(Samples(3)).error().code, ErrorCode::kInvalidArgument);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(stereo->push_samples(Samples{0, nan}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(Recording().push_samples(Samples(2)).error().code, ErrorCode::kInvalidArgument);
}

// Sound of the largest finite floats gives finite frames.
TEST(Recording, OfTheLoudestSamples) {
  Recording recording = of_mono();
  ASSERT_TRUE(recording.push_samples(Samples(500, std::numeric_limits<float>::max())));
  ASSERT_TRUE(recording.finish());
  const auto frames = recording.take(true);
  ASSERT_TRUE(frames);
  for (const float value : frames->values) EXPECT_TRUE(std::isfinite(value));
}

}  // namespace
}  // namespace lapidary::audio
