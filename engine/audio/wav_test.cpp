#include "engine/audio/wav.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/audio/test_wav.h"

namespace lapidary::audio {
namespace {

using Samples = std::vector<float>;

// All at once, and byte by byte: the same.
Result<Samples> read(const std::string& file) {
  Samples whole;
  WavReader reader;
  Status status = reader.push(bytes_of(file), whole);
  if (status) status = reader.finish();
  Samples pieces;
  WavReader slow;
  Status slow_status;
  for (size_t i = 0; i < file.size() && slow_status; ++i)
    slow_status = slow.push(bytes_of(file).subspan(i, 1), pieces);
  if (slow_status) slow_status = slow.finish();
  EXPECT_EQ(slow_status.has_value(), status.has_value());
  if (!status) {
    EXPECT_EQ(slow_status.error().message, status.error().message);
    return std::unexpected(status.error());
  }
  EXPECT_EQ(pieces, whole);
  return whole;
}

std::string mono(uint16_t tag, uint16_t bits, const std::string& data) {
  return riff(format_chunk(tag, 1, 8000, bits) + chunk("data", data));
}

ErrorCode code_of(const std::string& file) {
  const auto result = read(file);
  return result ? ErrorCode::kOk : result.error().code;
}

TEST(Wav, EveryCoding) {
  EXPECT_EQ(read(mono(1, 8, samples_of<uint8_t>({0, 128, 192, 255}))).value(),
            (Samples{-1, 0, 0.5, 127 / 128.0f}));
  EXPECT_EQ(read(mono(1, 16, samples_of<int16_t>({-32768, 0, 16384}))).value(),
            (Samples{-1, 0, 0.5}));
  EXPECT_EQ(read(mono(1, 24, std::string("\0\0\x80\0\0\x40\xff\xff\xff", 9))).value(),
            (Samples{-1, 0.5, -1 / 8388608.0f}));
  EXPECT_EQ(read(mono(1, 32, samples_of<int32_t>({INT32_MIN, 1 << 30}))).value(),
            (Samples{-1, 0.5}));
  EXPECT_EQ(read(mono(3, 32, samples_of<float>({-1, 0.25f, 3}))).value(), (Samples{-1, 0.25f, 3}));
  EXPECT_EQ(read(mono(3, 64, samples_of<double>({-1, 0.25}))).value(), (Samples{-1, 0.25f}));
  // Of 12 bits, which lie in two bytes.
  EXPECT_EQ(read(mono(1, 12, samples_of<int16_t>({16384}))).value(), (Samples{0.5}));
}

// Values of ITU-T G.711, tables 1a to 2b: the outermost and the innermost ones, and one between.
TEST(Wav, LogarithmicCodings) {
  EXPECT_EQ(
      read(mono(6, 8, samples_of<uint8_t>({0xaa, 0x2a, 0xd5, 0x55, 0x80}))).value(),
      (Samples{4032 / 4096.0f, -4032 / 4096.0f, 1 / 4096.0f, -1 / 4096.0f, 688 / 8192.0f * 2}));
  EXPECT_EQ(read(mono(7, 8, samples_of<uint8_t>({0x80, 0x00, 0xff, 0x7f, 0xef}))).value(),
            (Samples{8031 / 8192.0f, -8031 / 8192.0f, 0, 0, 33 / 8192.0f}));
}

TEST(Wav, MixesChannels) {
  const std::string data = samples_of<int16_t>({16384, 0, -16384, -16384});
  EXPECT_EQ(read(riff(format_chunk(1, 2, 44'100, 16) + chunk("data", data))).value(),
            (Samples{0.25, -0.5}));
  std::string many;
  for (int i = 0; i < 32; ++i) many += raw(std::numeric_limits<float>::max());
  EXPECT_EQ(read(riff(format_chunk(3, 32, 384'000, 32) + chunk("data", many))).value(),
            (Samples{std::numeric_limits<float>::max()}));
}

TEST(Wav, ExtensibleFormat) {
  const auto file = [](uint16_t tag, uint16_t channels, uint16_t bits, const std::string& rest) {
    const auto block = static_cast<uint16_t>(bits / 8 * channels);
    return riff(chunk("fmt ", raw(uint16_t{0xfffe}) + raw(channels) + raw(48'000u) + raw(0u) +
                                  raw(block) + raw(bits) + raw(uint16_t{22}) + raw(bits) + raw(3u) +
                                  raw(tag) + rest) +
                chunk("data", samples_of<float>({0.5, 0.25})));
  };
  const std::string rest("\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71", 14);
  EXPECT_EQ(read(file(3, 2, 32, rest)).value(), (Samples{0.375}));
  EXPECT_EQ(code_of(file(3, 2, 32, std::string(14, 'x'))), ErrorCode::kUnsupported);
  EXPECT_EQ(code_of(file(0x55, 2, 32, rest)), ErrorCode::kUnsupported);
}

TEST(Wav, ChunksInAnyOrderAndOfOddLength) {
  const std::string format = format_chunk(1, 1, 16'000, 8);
  const std::string data = chunk("data", samples_of<uint8_t>({192, 64, 192}));
  const std::string list = chunk("LIST", "odd");
  const Samples wanted = {0.5, -0.5, 0.5};
  for (const std::string& chunks :
       {format + data, list + format + list + data + list, data + format,
        data + list + format + list, format + data + data, list + data + format + format}) {
    EXPECT_EQ(read(riff(chunks)).value(), wanted);
  }
}

TEST(Wav, SoundOfUnknownOrWrongLength) {
  const std::string format = format_chunk(1, 1, 16'000, 16);
  const std::string data = samples_of<int16_t>({16384, -16384});
  for (const uint32_t size : {0xffffffffu, 0x7ffff000u, 5u}) {
    EXPECT_EQ(read(riff(format + "data" + raw(size) + data)).value(), (Samples{0.5, -0.5}));
    // A byte of a sample that is not whole.
    EXPECT_EQ(read(riff(format + "data" + raw(size) + data + "x")).value(), (Samples{0.5, -0.5}));
  }
  EXPECT_EQ(read(riff(format + chunk("data", ""))).value(), Samples{});
  const std::string sizes = chunk("ds64", raw(uint64_t{0}) + raw(uint64_t{4}) + raw(uint64_t{2}));
  EXPECT_EQ(read("RF64" + raw(0xffffffffu) + "WAVE" + sizes + format + "data" + raw(0xffffffffu) +
                 data + chunk("LIST", "after"))
                .value(),
            (Samples{0.5, -0.5}));
}

TEST(Wav, RefusesWhatIsNone) {
  const std::string data = chunk("data", std::string(8, 'x'));
  EXPECT_EQ(code_of(""), ErrorCode::kTruncated);
  EXPECT_EQ(code_of("RIFF"), ErrorCode::kTruncated);
  EXPECT_EQ(code_of("OggS00000000"), ErrorCode::kInvalidFormat);
  EXPECT_EQ(code_of("RIFX" + riff(data).substr(4)), ErrorCode::kInvalidFormat);
  EXPECT_EQ(code_of(riff(data)), ErrorCode::kInvalidFormat);
  EXPECT_EQ(code_of(riff(format_chunk(1, 1, 8000, 16))), ErrorCode::kInvalidFormat);
  EXPECT_EQ(code_of(riff(format_chunk(1, 1, 8000, 16)).substr(0, 30)), ErrorCode::kTruncated);
  EXPECT_EQ(code_of(riff(chunk("fmt ", "short") + data)), ErrorCode::kInvalidFormat);
  for (const auto& [tag, channels, rate, bits] : {std::tuple{1, 0, 8000u, 16},
                                                  {1, 33, 8000u, 16},
                                                  {1, 1, 999u, 16},
                                                  {1, 1, 384'001u, 16},
                                                  {1, 1, 8000u, 40},
                                                  {1, 1, 8000u, 0},
                                                  {3, 1, 8000u, 16},
                                                  {2, 1, 8000u, 4},
                                                  {0x55, 1, 8000u, 0},
                                                  {1, 0xffff, 0xffffffffu, 0xffff}}) {
    const std::string format =
        format_chunk(static_cast<uint16_t>(tag), static_cast<uint16_t>(channels), rate,
                     static_cast<uint16_t>(bits));
    EXPECT_EQ(code_of(riff(format + data)), ErrorCode::kUnsupported) << tag << " " << bits;
  }
  std::string blocks = riff(format_chunk(1, 2, 8000, 16) + data);
  blocks[32] = 3;
  EXPECT_EQ(code_of(blocks), ErrorCode::kInvalidFormat);
}

TEST(Wav, RefusesSamplesThatAreNoNumbers) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {kNan, kInfinity, -kInfinity})
    EXPECT_EQ(code_of(mono(3, 32, samples_of<float>({0, bad}))), ErrorCode::kInvalidFormat);
  EXPECT_EQ(code_of(mono(3, 64, samples_of<double>({1e300}))), ErrorCode::kInvalidFormat);
}

TEST(Wav, HoldsOnlySoMuchSoundBeforeItsFormat) {
  std::string file = riff("data" + raw(0xffffffffu)) + std::string((16 << 20) + 1, 'x');
  Samples out;
  WavReader reader;
  EXPECT_EQ(reader.push(bytes_of(file), out).error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace lapidary::audio
