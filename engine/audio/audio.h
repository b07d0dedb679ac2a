// What the audio tower takes: mono at 16 kHz, cut into windows, as frames of a log-mel spectrogram
// (gemma4.md §8.1).
#pragma once

#include <cstdint>

namespace lapidary::audio {

inline constexpr uint32_t kSampleRate = 16'000;  // Hz
inline constexpr uint32_t kMelBins = 128;
inline constexpr uint32_t kHop = 160;  // samples from a frame to the next
// The fewest samples that make a frame.
inline constexpr uint32_t kFewestSamples = 161;

// Recordings longer than a window are encoded by windows, each on its own.
inline constexpr uint32_t kWindowSeconds = 30;
inline constexpr uint32_t kWindowSamples = kWindowSeconds * kSampleRate;

// Frames of so many samples.
constexpr uint32_t frame_count(uint32_t samples) {
  return samples < kFewestSamples ? 0 : (samples - kFewestSamples) / kHop + 1;
}
inline constexpr uint32_t kWindowFrames = frame_count(kWindowSamples);

// Soft tokens of so many frames: 25 a second, 750 a window.
constexpr uint32_t soft_tokens(uint32_t frames) { return (frames + 3) / 4; }
static_assert(soft_tokens(kWindowFrames) == 750);

}  // namespace lapidary::audio
