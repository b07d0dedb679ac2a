#include "engine/audio/wav.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/base/text.h"

namespace lapidary::audio {
namespace {

constexpr size_t kMostHeld = 16 << 20;
constexpr uint32_t kUnknownSize = 0xffffffff;
constexpr uint64_t kToTheEnd = std::numeric_limits<uint64_t>::max();
constexpr size_t kFileHead = 12;
constexpr size_t kChunkHead = 8;
constexpr size_t kShortFormat = 16;
constexpr size_t kExtensibleFormat = 40;
constexpr size_t kLongSizes = 16;

enum Tag : uint16_t {
  kPcm = 1,
  kFloat = 3,
  kALawTag = 6,
  kMuLawTag = 7,
  kExtensible = 0xfffe,
};

// What follows the tag in an extensible format's GUID.
constexpr uint8_t kGuidRest[] = {0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71};

bool equals(Bytes bytes, size_t offset, std::string_view name) {
  return std::memcmp(bytes.data() + offset, name.data(), name.size()) == 0;
}

double a_law(uint8_t code) {
  const uint8_t bits = code ^ 0x55;
  const int exponent = bits >> 4 & 7;
  const int mantissa = bits & 15;
  const int value = exponent == 0 ? 2 * mantissa + 1 : (2 * mantissa + 33) << (exponent - 1);
  return (bits & 0x80 ? value : -value) / 4096.0;
}

double mu_law(uint8_t code) {
  const auto bits = static_cast<uint8_t>(~code);
  const int value = ((2 * (bits & 15) + 33) << (bits >> 4 & 7)) - 33;
  return (bits & 0x80 ? -value : value) / 8192.0;
}

double sample_at(SampleFormat format, const std::byte* at) {
  const Bytes bytes(at, sizeof(double));
  const auto code = static_cast<uint8_t>(*at);
  switch (format) {
    case SampleFormat::kU8:
      return (code - 128) / 128.0;
    case SampleFormat::kS16:
      return load<int16_t>(bytes, 0) / 32768.0;
    case SampleFormat::kS24:
      return ((code | static_cast<uint8_t>(at[1]) << 8) + static_cast<int8_t>(at[2]) * 65536) /
             8388608.0;
    case SampleFormat::kS32:
      return load<int32_t>(bytes, 0) / 2147483648.0;
    case SampleFormat::kF32:
      return load<float>(bytes, 0);
    case SampleFormat::kF64:
      return load<double>(bytes, 0);
    case SampleFormat::kALaw:
      return a_law(code);
    case SampleFormat::kMuLaw:
      return mu_law(code);
  }
  return 0;
}

struct Coding {
  uint16_t tag;
  uint32_t bytes;  // of a sample
  SampleFormat format;
};
constexpr Coding kCodings[] = {
    {kPcm, 1, SampleFormat::kU8},       {kPcm, 2, SampleFormat::kS16},
    {kPcm, 3, SampleFormat::kS24},      {kPcm, 4, SampleFormat::kS32},
    {kFloat, 4, SampleFormat::kF32},    {kFloat, 8, SampleFormat::kF64},
    {kALawTag, 1, SampleFormat::kALaw}, {kMuLawTag, 1, SampleFormat::kMuLaw},
};

}  // namespace

bool WavReader::gather(Bytes& bytes, size_t count) {
  const size_t some = std::min(bytes.size(), count - head_.size());
  head_.insert(head_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(some));
  bytes = bytes.subspan(some);
  return head_.size() == count;
}

Status WavReader::read_file_head() {
  long_ = equals(head_, 0, "RF64") || equals(head_, 0, "BW64");
  if ((!long_ && !equals(head_, 0, "RIFF")) || !equals(head_, 8, "WAVE"))
    return fail(ErrorCode::kInvalidFormat, "the audio is no WAV file");
  state_ = State::kChunk;
  return {};
}

void WavReader::skip(uint64_t bytes) {
  left_ = bytes + (chunk_size_ & 1);
  state_ = left_ == 0 ? State::kChunk : State::kSkip;
}

void WavReader::read_chunk_head() {
  const auto size = load<uint32_t>(head_, 4);
  chunk_size_ = size;
  if (equals(head_, 0, "fmt ") && format() == nullptr) {
    state_ = State::kFormat;
  } else if (equals(head_, 0, "ds64") && long_ && size >= kLongSizes) {
    state_ = State::kLongSizes;
  } else if (equals(head_, 0, "data") && !has_data_) {
    has_data_ = true;
    state_ = State::kData;
    left_ = size;
    if (size == kUnknownSize) left_ = long_data_size_ != 0 ? long_data_size_ : kToTheEnd;
    chunk_size_ = left_;
    if (left_ == 0) skip(0);
  } else {
    skip(size);
  }
}

Status WavReader::read_format() {
  auto tag = load<uint16_t>(head_, 0);
  WavFormat format{.rate = load<uint32_t>(head_, 4),
                   .channels = load<uint16_t>(head_, 2),
                   .block = load<uint16_t>(head_, 12)};
  const uint32_t bits = load<uint16_t>(head_, 14);
  if (tag == kExtensible && head_.size() == kExtensibleFormat &&
      std::memcmp(head_.data() + 26, kGuidRest, sizeof kGuidRest) == 0)
    tag = load<uint16_t>(head_, 24);
  const uint32_t bytes = (bits + 7) / 8;
  const auto coding = std::ranges::find_if(
      kCodings, [&](const Coding& each) { return each.tag == tag && each.bytes == bytes; });
  if (coding == std::end(kCodings)) {
    return fail(ErrorCode::kUnsupported,
                cat("a WAV file of coding ", tag, " with ", bits,
                    " bits is not supported: PCM, floats, A-law and mu-law are"));
  }
  if (format.rate < kLowestRate || format.rate > kHighestRate) {
    return fail(ErrorCode::kUnsupported,
                cat("a WAV file of ", format.rate, " Hz is not supported: ", kLowestRate, " to ",
                    kHighestRate, " Hz are"));
  }
  if (format.channels == 0 || format.channels > kMostChannels) {
    return fail(ErrorCode::kUnsupported,
                cat("a WAV file of ", format.channels, " channels is not supported: 1 to ",
                    kMostChannels, " are"));
  }
  if (format.block != bytes * format.channels) {
    return fail(ErrorCode::kInvalidFormat,
                cat("a WAV file of ", format.channels, " channels with ", bits,
                    " bits has no blocks of ", format.block, " bytes: it is damaged"));
  }
  format.format = coding->format;
  format_ = format;
  return {};
}

Status WavReader::decode(Bytes blocks, std::vector<float>& mono) {
  const uint32_t channels = format_.channels;
  const size_t width = format_.block / channels;
  // A sample is read through a copy, for loads may reach past the last one.
  std::byte sample[sizeof(double)] = {};
  for (size_t at = 0; at < blocks.size(); at += format_.block) {
    double sum = 0;
    for (size_t c = 0; c < channels; ++c) {
      std::memcpy(sample, blocks.data() + at + c * width, width);
      sum += sample_at(format_.format, sample);
    }
    const auto value = static_cast<float>(sum / channels);
    if (!std::isfinite(value)) {
      return fail(ErrorCode::kInvalidFormat,
                  cat("sample ", samples_, " of the WAV file is no finite number"));
    }
    mono.push_back(value);
    ++samples_;
  }
  return {};
}

Status WavReader::read_data(Bytes bytes, std::vector<float>& mono) {
  if (format() == nullptr) {
    if (bytes.size() > kMostHeld - held_.size()) {
      return fail(ErrorCode::kUnsupported,
                  "a WAV file whose format comes after more than 16 MiB of sound is not supported");
    }
    held_.insert(held_.end(), bytes.begin(), bytes.end());
    return {};
  }
  if (!held_.empty()) {
    const size_t some = std::min(bytes.size(), size_t{format_.block} - held_.size());
    held_.insert(held_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(some));
    bytes = bytes.subspan(some);
    if (held_.size() < format_.block) return {};
    TRY_VOID(decode(held_, mono));
    held_.clear();
  }
  const size_t whole = bytes.size() / format_.block * format_.block;
  TRY_VOID(decode(bytes.first(whole), mono));
  held_.assign(bytes.begin() + static_cast<std::ptrdiff_t>(whole), bytes.end());
  return {};
}

Status WavReader::push(Bytes bytes, std::vector<float>& mono) {
  while (!bytes.empty() && state_ != State::kEnd) {
    switch (state_) {
      case State::kFile:
        if (!gather(bytes, kFileHead)) return {};
        TRY_VOID(read_file_head());
        head_.clear();
        break;
      case State::kChunk:
        if (!gather(bytes, kChunkHead)) return {};
        read_chunk_head();
        head_.clear();
        break;
      case State::kFormat: {
        if (chunk_size_ < kShortFormat) {
          return fail(ErrorCode::kInvalidFormat,
                      cat("the WAV file's format has ", chunk_size_, " bytes: it is damaged"));
        }
        const size_t wanted = chunk_size_ < kExtensibleFormat ? kShortFormat : kExtensibleFormat;
        if (!gather(bytes, wanted)) return {};
        TRY_VOID(read_format());
        head_.clear();
        skip(chunk_size_ - wanted);
        if (has_data_) {
          const std::vector<std::byte> sound = std::exchange(held_, {});
          TRY_VOID(read_data(sound, mono));
          state_ = State::kEnd;
        }
        break;
      }
      case State::kLongSizes:
        if (!gather(bytes, kLongSizes)) return {};
        long_data_size_ = load<uint64_t>(head_, 8);
        head_.clear();
        skip(chunk_size_ - kLongSizes);
        break;
      case State::kSkip:
      case State::kData: {
        const auto some = static_cast<size_t>(std::min<uint64_t>(bytes.size(), left_));
        if (state_ == State::kData) TRY_VOID(read_data(bytes.first(some), mono));
        bytes = bytes.subspan(some);
        left_ -= some;
        if (left_ != 0) break;
        if (state_ == State::kSkip) {
          state_ = State::kChunk;
        } else if (format() != nullptr) {
          state_ = State::kEnd;
        } else {
          skip(0);
        }
        break;
      }
      case State::kEnd:
        break;
    }
  }
  return {};
}

Status WavReader::finish() const {
  if (format() != nullptr && has_data_) return {};
  if (state_ == State::kChunk && head_.empty()) {
    return fail(ErrorCode::kInvalidFormat,
                cat("the WAV file has no ", has_data_ ? "format" : "sound"));
  }
  return fail(ErrorCode::kTruncated, "the WAV file ends before its format and its sound have come");
}

}  // namespace lapidary::audio
