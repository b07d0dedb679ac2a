// A recording on its way to the audio tower: bytes of a WAV file, or samples, to log-mel frames by
// windows.
#pragma once

#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "engine/audio/log_mel.h"
#include "engine/audio/resample.h"
#include "engine/audio/wav.h"
#include "engine/base/error.h"

namespace lapidary::audio {

// Frames that follow those taken before. Window w begins w * kWindowSeconds after the recording.
struct Frames {
  uint32_t window = 0;
  std::vector<float> values;  // f32 [n][kMelBins]; or samples
  bool last = false;          // of the window
};

class Recording {
 public:
  // Of a WAV file's bytes.
  explicit Recording(MelFloor floor = MelFloor::kAdded) : mel_(floor) {}
  // Of samples, channel after channel for each moment. kUnsupported: as WavReader.
  static Result<Recording> of_samples(uint32_t rate, uint32_t channels,
                                      MelFloor floor = MelFloor::kAdded);

  // For models that take samples at kSampleRate instead of log-mel frames. Before anything is
  // given.
  void keep_samples() { keeps_samples_ = true; }

  // Bytes of a WAV file, as WavReader takes them. kInvalidArgument: an hour's frames wait to be
  // taken.
  Status push(Bytes wav);
  // Samples from -1 to 1. kInvalidArgument: they are no finite numbers, or none of every channel;
  // or as above.
  Status push_samples(std::span<const float> samples);
  // After the last of them. kInvalidArgument: fewer than kFewestSamples at kSampleRate; and as
  // WavReader. Fewer than that in a further window are left out.
  Status finish();

  // Frames that have come since the last call; whole: only when the window is complete. Each
  // window's last frames are marked once; they may be none.
  std::optional<Frames> take(bool whole);
  // Taken from the source so far.
  double seconds() const { return static_cast<double>(samples_) / kSampleRate; }

 private:
  Status add_mono();
  Status add_even();

  WavReader wav_;
  uint32_t channels_ = 0;  // 0: a WAV file
  bool keeps_samples_ = false;
  std::optional<Resampler> resampler_;
  LogMel mel_;
  std::vector<float> mono_, even_;  // as given, and at kSampleRate
  std::deque<Frames> frames_;
  uint64_t waiting_ = 0;  // values in frames_
  uint64_t samples_ = 0;  // at kSampleRate
  uint64_t given_ = 0;    // samples of each channel, where they are pushed
};

}  // namespace lapidary::audio
