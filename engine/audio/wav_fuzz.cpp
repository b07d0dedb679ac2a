// Any bytes as a WAV file: read whole and in pieces of varying size, which must agree, and made
// into frames, which must be finite.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "engine/audio/recording.h"

namespace lapidary::audio {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "wav_fuzz: %s\n", what);
  std::abort();
}

}  // namespace
}  // namespace lapidary::audio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lapidary;
  using namespace lapidary::audio;
  const Bytes file = std::as_bytes(std::span(data, size));
  std::vector<float> whole;
  WavReader reader;
  Status status = reader.push(file, whole);
  if (status) status = reader.finish();
  require(whole.size() <= size, "more samples than bytes");
  for (const float value : whole) require(std::isfinite(value), "a sample that is no number");

  // Pieces whose sizes follow from the input itself.
  uint32_t random = 2166136261u;
  for (size_t i = 0; i < std::min<size_t>(size, 64); ++i) random = (random ^ data[i]) * 16777619u;
  std::vector<float> pieces;
  WavReader slow;
  Status slow_status;
  for (size_t at = 0; at < size && slow_status;) {
    random = random * 1664525u + 1013904223u;
    const size_t piece = std::min<size_t>(1 + (random >> 16) % 97, size - at);
    slow_status = slow.push(file.subspan(at, piece), pieces);
    at += piece;
  }
  if (slow_status) slow_status = slow.finish();
  require(slow_status.has_value() == status.has_value(), "pieces and whole disagree");
  require(pieces == whole, "pieces and whole differ");
  if (!status) {
    require(status.error().message == slow_status.error().message,
            "pieces and whole differ in the error");
  }

  // Low rates make many frames of few bytes.
  if (whole.size() > 4096) return 0;
  Recording recording;
  Status made = recording.push(file);
  if (made) made = recording.finish();
  require(!made || status, "frames of what is no WAV file");
  if (!made) return 0;
  while (const auto frames = recording.take(true)) {
    require(frames->last && frames->values.size() % kMelBins == 0, "a window that is not whole");
    for (const float value : frames->values)
      require(std::isfinite(value), "a frame that is no number");
  }
  return 0;
}
