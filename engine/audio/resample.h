// Sound of any rate to that of the audio tower: a windowed sinc (Kaiser's window) as a low-pass
// filter, one row of weights for each place that an output can have between two inputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/audio/audio.h"

namespace lapidary::audio {

// Flat to 0.45 of the lower rate; what lies above half of it is 90 dB down. Outputs lie where the
// inputs do in time: there is no delay, and ceil(inputs * kSampleRate / rate) of them.
class Resampler {
 public:
  // rate: kLowestRate to kHighestRate, in Hz.
  explicit Resampler(uint32_t rate);

  // Appends the outputs that the next samples complete. All at once or in pieces: the same.
  void push(std::span<const float> samples, std::vector<float>& out);
  // After the last of them.
  void finish(std::vector<float>& out);

 private:
  // Outputs before input `end`, of which everything that they need has come.
  void make(uint64_t end, std::vector<float>& out);
  double sum(uint32_t row, const float* inputs) const;

  // Output n lies n * step_ / phases_ inputs after the first one.
  uint32_t step_ = 1, phases_ = 1;
  uint32_t rows_ = 1;         // of the table, without the last one: phases_, or fewer
  uint32_t half_ = 0;         // inputs before and after an output
  std::vector<float> table_;  // [rows_ + 1][2 * half_]
  std::vector<float> kept_;   // inputs from first_ - half_ + 1 on
  uint64_t first_ = 0;
  uint64_t taken_ = 0;  // inputs
  uint64_t made_ = 0;   // outputs
};

}  // namespace lapidary::audio
