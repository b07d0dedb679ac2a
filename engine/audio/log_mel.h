// The log-mel spectrogram that the audio tower takes (gemma4.md §8.1).
#pragma once

#include <span>
#include <vector>

#include "engine/audio/audio.h"

namespace lapidary::audio {

// How the logarithm is kept from zero.
enum class MelFloor : uint8_t {
  kAdded,    // ln(mel + 0.001): what the model was trained with, and the default
  kClamped,  // ln(max(mel, 0.001)): llama.cpp's
};

class LogMel {
 public:
  explicit LogMel(MelFloor floor = MelFloor::kAdded);

  // The next samples of a window, mono at kSampleRate; appends the frames that they complete, f32
  // [n][kMelBins]. All at once or in pieces, the frames are the same: frame_count() together.
  void push(std::span<const float> samples, std::vector<float>& frames);
  // Another window begins.
  void restart();

 private:
  void add_frame(const float* samples, std::vector<float>& frames);
  void transform();

  struct Filter {
    uint32_t first = 0, count = 0, at = 0;  // bins, and their weights
  };
  MelFloor floor_;
  std::vector<double> window_, turns_, real_, imaginary_, weights_;
  std::vector<Filter> filters_;
  std::vector<float> kept_;
};

}  // namespace lapidary::audio
