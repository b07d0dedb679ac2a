// WAV files as they come: RIFF/WAVE and RF64, PCM of 8 to 32 bits, floats of 32 and 64, A-law and
// mu-law, by their plain and their extensible format chunks.
#pragma once

#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"

namespace lapidary::audio {

// Of recordings that are taken.
inline constexpr uint32_t kLowestRate = 1'000;  // Hz
inline constexpr uint32_t kHighestRate = 384'000;
inline constexpr uint32_t kMostChannels = 32;

enum class SampleFormat : uint8_t { kU8, kS16, kS24, kS32, kF32, kF64, kALaw, kMuLaw };

struct WavFormat {
  SampleFormat format = SampleFormat::kS16;
  uint32_t rate = 0;  // Hz
  uint32_t channels = 0;
  uint32_t block = 0;  // bytes of a sample of every channel
};

// A file byte by byte, or all at once. Chunks may come in any order; of sound that lies before the
// format, 16 MiB are held. A data chunk that is longer than the file, or of unknown length, has
// what is there; a last sample that is not whole is left out.
class WavReader {
 public:
  // Appends the mean of the channels, from -1 to 1 (floats may go beyond). kInvalidFormat: no WAV
  // file, or samples that are no finite numbers; kUnsupported: another coding, rate or number of
  // channels.
  Status push(Bytes bytes, std::vector<float>& mono);
  // After the last bytes. kTruncated: they end before the sound; kInvalidFormat: there is none.
  Status finish() const;
  // nullptr until it is known.
  const WavFormat* format() const { return format_.block == 0 ? nullptr : &format_; }

 private:
  enum class State : uint8_t { kFile, kChunk, kFormat, kLongSizes, kSkip, kData, kEnd };

  // Moves bytes to head_ until it has `count`; whether it has.
  bool gather(Bytes& bytes, size_t count);
  Status read_file_head();
  void read_chunk_head();
  Status read_format();
  Status read_data(Bytes bytes, std::vector<float>& mono);
  Status decode(Bytes blocks, std::vector<float>& mono);
  // Leaves `bytes` of the chunk, and its padding, out.
  void skip(uint64_t bytes);

  State state_ = State::kFile;
  std::vector<std::byte> head_;
  std::vector<std::byte> held_;  // sound before its format, or a begun block
  WavFormat format_;
  bool long_ = false;  // RF64
  bool has_data_ = false;
  uint64_t chunk_size_ = 0;  // of the chunk that is read, from its head
  uint64_t left_ = 0;        // of what is skipped, or of the data
  uint64_t long_data_size_ = 0;
  uint64_t samples_ = 0;
};

}  // namespace lapidary::audio
