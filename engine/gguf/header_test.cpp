#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "engine/base/text.h"
#include "engine/gguf/codec.h"
#include "engine/gguf/encode.h"
#include "engine/gguf/header_parser.h"
#include "engine/gguf/writer.h"

namespace lapidary::gguf {
namespace {

using File = std::vector<std::byte>;

File finished(const Writer& writer) {
  auto file = writer.finish();
  EXPECT_TRUE(file.has_value()) << (file ? "" : file.error().message);
  return file ? *std::move(file) : File();
}

std::vector<std::byte> bytes_of(std::initializer_list<float> values) {
  const auto bytes = std::as_bytes(std::span(values.begin(), values.size()));
  return {bytes.begin(), bytes.end()};
}

// Every metadata type, scalar and array, and tensors of several types and ranks.
Writer sample_writer(uint32_t version = 3, uint32_t alignment = 32) {
  Writer writer(version, alignment);
  writer.add("general.architecture", "gemma4");
  writer.add("s.u8", uint8_t{200});
  writer.add("s.i8", int8_t{-100});
  writer.add("s.u16", uint16_t{60000});
  writer.add("s.i16", int16_t{-30000});
  writer.add("s.u32", uint32_t{4000000000});
  writer.add("s.i32", int32_t{-2000000000});
  writer.add("s.f32", 0.1f);
  writer.add("s.true", true);
  writer.add("s.false", false);
  writer.add("s.u64", std::numeric_limits<uint64_t>::max());
  writer.add("s.i64", std::numeric_limits<int64_t>::min());
  writer.add("s.f64", 0.1);
  writer.add("s.text", std::string_view("a\0b\xFF", 4));
  writer.add("s.empty", "");
  writer.add_array<uint8_t>("a.u8", {0, 255});
  writer.add_array<int8_t>("a.i8", {-128, 127});
  writer.add_array<uint16_t>("a.u16", {0, 65535});
  writer.add_array<int16_t>("a.i16", {-32768, 32767});
  writer.add_array<uint32_t>("a.u32", {1, 106, 50});
  writer.add_array<int32_t>("a.i32", {4, 1, 1});
  writer.add_array<float>("a.f32", {-1000.0f, 0.5f});
  writer.add_array<bool>("a.bool", {true, false, true});
  writer.add_array<uint64_t>("a.u64", {std::numeric_limits<uint64_t>::max()});
  writer.add_array<int64_t>("a.i64", {std::numeric_limits<int64_t>::min(), 7});
  writer.add_array<double>("a.f64", {0.1});
  writer.add_array<uint32_t>("a.none", std::span<const uint32_t>());
  writer.add_strings("a.text", {"<pad>", "", "the", std::string_view("\0", 1)});
  writer.add_strings("a.no_text", {});
  writer.add_tensor("scalar", {}, TensorType::kF32, bytes_of({3}));
  writer.add_tensor("vector", {3}, TensorType::kF32, bytes_of({1, 2, 3}));
  writer.add_tensor("cube", {2, 1, 2}, TensorType::kF32, bytes_of({1, 2, 3, 4}));
  const std::vector<float> row(64, 0.5f);
  writer.add_tensor("blk.0.ffn_up.weight", {32, 2}, TensorType::kQ8_0,
                    *encode_block_row(TensorType::kQ8_0, row));
  return writer;
}

std::string dump(const Value& value) {
  std::string out(value_type_name(value.type()));
  if (const auto array = value.as_array()) {
    out += cat(" of ", array->size(), " ", value_type_name(array->element_type()));
    for (const std::string_view text : array->strings()) out += cat(" '", text, "'");
  }
  for (const std::byte byte : value.data()) out += cat(" ", std::to_integer<int>(byte));
  return out;
}

// All that a header says, as text.
std::string dump(const Header& header) {
  std::string out = cat("v", header.version(), " align ", header.alignment(), " data at ",
                        header.data_offset(), " held ", header.header_bytes(), "\n");
  for (const KeyValue& entry : header.metadata()) {
    out += cat(entry.key, " = ", dump(entry.value), "\n");
    EXPECT_EQ(header.find(entry.key), &entry.value);
  }
  for (const TensorInfo& info : header.tensors()) {
    out += cat(info.name, " ", info.n_dims, ":", info.dims[0], ",", info.dims[1], ",", info.dims[2],
               ",", info.dims[3], " ", tensor_type_info(info.type).name, " at ", info.offset, "+",
               info.bytes, "\n");
    EXPECT_EQ(header.tensor(info.name), &info);
  }
  return out;
}

TEST(Header, EveryMetadataTypeRoundTrips) {
  const File file = finished(sample_writer());
  const auto header = parse_header(file);
  ASSERT_TRUE(header.has_value()) << header.error().message;
  EXPECT_EQ(header->get_string("general.architecture").value(), "gemma4");
  EXPECT_EQ(header->get_uint("s.u8").value(), 200u);
  EXPECT_EQ(header->find("s.i8")->as_int(), -100);
  EXPECT_EQ(header->get_uint("s.u16").value(), 60000u);
  EXPECT_EQ(header->find("s.i16")->as_int(), -30000);
  EXPECT_EQ(header->get_u32("s.u32").value(), 4000000000u);
  EXPECT_EQ(header->find("s.i32")->as_int(), -2000000000);
  EXPECT_EQ(header->get_float("s.f32").value(), double{0.1f});
  EXPECT_TRUE(header->get_bool("s.true").value());
  EXPECT_FALSE(header->get_bool("s.false").value());
  EXPECT_EQ(header->get_uint("s.u64").value(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(header->find("s.u64")->as_int(), std::nullopt);
  EXPECT_EQ(header->find("s.i64")->as_int(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(header->get_float("s.f64").value(), 0.1);
  EXPECT_EQ(header->get_string("s.text").value(), std::string_view("a\0b\xFF", 4));
  EXPECT_EQ(header->get_string("s.empty").value(), "");

  const auto array = [&](std::string_view key) { return header->get_array(key).value(); };
  EXPECT_EQ(array("a.u8").uint_at(1), 255u);
  EXPECT_EQ(array("a.i8").int_at(0), -128);
  EXPECT_EQ(array("a.i8").uint_at(0), std::nullopt);
  EXPECT_EQ(array("a.u16").uint_at(1), 65535u);
  EXPECT_EQ(array("a.i16").int_at(0), -32768);
  EXPECT_EQ(array("a.u32").uint_at(1), 106u);
  EXPECT_EQ(array("a.u32").uint_at(3), std::nullopt);
  EXPECT_EQ(array("a.i32").uint_at(0), 4u);
  EXPECT_EQ(array("a.f32").float_at(0), -1000.0);
  EXPECT_EQ(array("a.f32").float_at(2), std::nullopt);
  EXPECT_EQ(array("a.f32").uint_at(0), std::nullopt);
  EXPECT_EQ(array("a.bool").bool_at(1), false);
  EXPECT_EQ(array("a.bool").bool_at(2), true);
  EXPECT_EQ(array("a.bool").bool_at(3), std::nullopt);
  EXPECT_EQ(array("a.u64").uint_at(0), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(array("a.u64").int_at(0), std::nullopt);
  EXPECT_EQ(array("a.i64").int_at(0), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(array("a.f64").float_at(0), 0.1);
  EXPECT_EQ(array("a.none").size(), 0u);
  EXPECT_EQ(array("a.none").uint_at(0), std::nullopt);
  EXPECT_EQ(array("a.u8").strings().size(), 0u);
  std::vector<std::string> texts;
  for (const std::string_view text : array("a.text").strings()) texts.emplace_back(text);
  EXPECT_EQ(texts, (std::vector<std::string>{"<pad>", "", "the", std::string(1, '\0')}));
  EXPECT_EQ(array("a.no_text").element_type(), ValueType::kString);
  EXPECT_EQ(array("a.no_text").size(), 0u);
  EXPECT_EQ(header->find("absent"), nullptr);
}

TEST(Header, TensorsLieWhereTheyShould) {
  for (const uint32_t version : {2u, 3u}) {
    for (const uint32_t alignment : {1u, 8u, 32u, 4096u}) {
      const File file = finished(sample_writer(version, alignment));
      const auto header = parse_header(file);
      ASSERT_TRUE(header.has_value()) << header.error().message;
      EXPECT_EQ(header->version(), version);
      EXPECT_EQ(header->alignment(), alignment);
      EXPECT_EQ(header->data_offset() % alignment, 0u);
      EXPECT_EQ(header->file_size(), file.size());
      ASSERT_EQ(header->tensors().size(), 4u);
      EXPECT_EQ(header->tensor("absent"), nullptr);
      const TensorInfo* scalar = header->tensor("scalar");
      EXPECT_EQ(scalar->n_dims, 0u);
      EXPECT_EQ(scalar->elements(), 1u);
      EXPECT_EQ(load<float>(file, scalar->offset), 3.0f);
      const TensorInfo* cube = header->tensor("cube");
      EXPECT_EQ(cube->dims, (std::array<uint64_t, 4>{2, 1, 2, 1}));
      EXPECT_EQ(cube->rows(), 2u);
      EXPECT_EQ(cube->bytes, 16u);
      EXPECT_EQ(cube->offset % alignment, 0u);
      EXPECT_EQ(load<float>(file, cube->offset + 12), 4.0f);
      const TensorInfo* up = header->tensor("blk.0.ffn_up.weight");
      EXPECT_EQ(up->type, TensorType::kQ8_0);
      EXPECT_EQ(up->bytes, 68u);
      std::vector<float> row(64);
      ASSERT_TRUE(
          decode_block_row(up->type, Bytes(file).subspan(up->offset, up->bytes), row).has_value());
      EXPECT_NEAR(row[63], 0.5f, 1e-3);
    }
  }
}

TEST(Header, TypedGettersSayWhatIsWrong) {
  const auto parsed = parse_header(finished(sample_writer()));
  ASSERT_TRUE(parsed.has_value());
  const Header& header = *parsed;
  EXPECT_EQ(header.get_uint("gemma4.block_count").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(header.get_uint("gemma4.block_count").error().message,
            "the model file has no metadata key 'gemma4.block_count'");
  EXPECT_EQ(header.get_uint("s.text").error().message,
            "metadata key 's.text' should be a non-negative integer, but is of type string");
  EXPECT_EQ(header.get_uint("s.i8").error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(header.get_uint("s.f32").error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(header.get_u32("s.u64").error().message,
            "metadata key 's.u64' is 18446744073709551615, which is out of range");
  EXPECT_EQ(header.get_float("s.u8").error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(header.get_bool("s.u8").error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(header.get_string("a.text").error().message,
            "metadata key 'a.text' should be a string, but is an array of 4 string");
  EXPECT_EQ(header.get_array("s.u8").error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(header.get_array("absent").error().code, ErrorCode::kNotFound);
  // An absent key has a default; a key of the wrong kind has none.
  EXPECT_EQ(header.get_uint("absent", 7).value(), 7u);
  EXPECT_EQ(header.get_u32("absent", 7).value(), 7u);
  EXPECT_EQ(header.get_float("absent", 1e4).value(), 1e4);
  EXPECT_TRUE(header.get_bool("absent", true).value());
  EXPECT_EQ(header.get_string("absent", "gemma4").value(), "gemma4");
  EXPECT_EQ(header.get_uint("s.u8", 7).value(), 200u);
  EXPECT_FALSE(header.get_uint("s.text", 7).has_value());
  EXPECT_FALSE(header.get_u32("s.text", 7).has_value());
  EXPECT_FALSE(header.get_float("s.text", 7).has_value());
  EXPECT_FALSE(header.get_bool("s.text", true).has_value());
  EXPECT_FALSE(header.get_string("s.u8", "").has_value());
}

TEST(Header, PerLayerNumbersComeFromAScalarOrAnArray) {
  const auto parsed = parse_header(finished(sample_writer()));
  ASSERT_TRUE(parsed.has_value());
  const Header& header = *parsed;
  using U32s = std::vector<uint32_t>;
  EXPECT_EQ(header.get_u32s("s.u8", 2).value(), (U32s{200, 200}));
  EXPECT_EQ(header.get_u32s("a.i32", 3).value(), (U32s{4, 1, 1}));
  EXPECT_EQ(header.get_u32s("a.u32", 3).value(), (U32s{1, 106, 50}));
  EXPECT_EQ(header.get_u32s("a.i32", 2).error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(
      header.get_u32s("a.i32", 4).error().message,
      "metadata key 'a.i32' should be an integer or an array of 4 integers, but is an array of "
      "3 i32");
  EXPECT_FALSE(header.get_u32s("a.i8", 2).has_value());   // negative
  EXPECT_FALSE(header.get_u32s("a.u64", 1).has_value());  // out of range
  EXPECT_FALSE(header.get_u32s("a.text", 4).has_value());
  EXPECT_EQ(header.get_u32s("absent", 2).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(header.get_bools("a.bool", 3).value(), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(header.get_bools("s.true", 2).value(), (std::vector<bool>{true, true}));
  EXPECT_FALSE(header.get_bools("a.bool", 2).has_value());
  EXPECT_FALSE(header.get_bools("a.u8", 2).has_value());
  EXPECT_EQ(header.get_bools("absent", 2).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(header.get_u32_list("a.u32", 8).value(), (U32s{1, 106, 50}));
  EXPECT_EQ(header.get_u32_list("s.u8", 8).value(), (U32s{200}));
  EXPECT_EQ(header.get_u32_list("a.none", 8).value(), U32s{});
  EXPECT_FALSE(header.get_u32_list("a.u32", 2).has_value());
}

TEST(Header, ViewsSurviveAMove) {
  auto parsed = parse_header(finished(sample_writer()));
  ASSERT_TRUE(parsed.has_value());
  const std::string before = dump(*parsed);
  Header moved = std::move(*parsed);
  EXPECT_EQ(dump(moved), before);
  auto other = parse_header(finished(sample_writer(2)));
  ASSERT_TRUE(other.has_value());
  *other = std::move(moved);
  EXPECT_EQ(dump(*other), before);
}

TEST(HeaderParser, EverySplitOfThePrefixGivesTheSameHeader) {
  const File file = finished(sample_writer());
  const std::string whole = dump(*parse_header(file));
  const uint64_t data_offset = parse_header(file)->data_offset();
  for (size_t split = 0; split <= file.size(); ++split) {
    HeaderParser parser(file.size());
    ASSERT_TRUE(parser.feed(Bytes(file).first(split)).has_value());
    EXPECT_EQ(parser.received(), split);
    if (!parser.done()) {
      EXPECT_GT(parser.wanted(), 0u);
      EXPECT_LE(parser.received() + parser.wanted(), file.size());
      ASSERT_TRUE(parser.feed(Bytes(file).subspan(split)).has_value());
    } else {
      EXPECT_GE(split + 32, data_offset);
    }
    ASSERT_TRUE(parser.done()) << split;
    const auto header = std::move(parser).finish();
    ASSERT_TRUE(header.has_value());
    ASSERT_EQ(dump(*header), whole) << split;
  }
}

TEST(HeaderParser, EqualChunksOfEverySizeGiveTheSameHeader) {
  const File file = finished(sample_writer());
  const std::string whole = dump(*parse_header(file));
  for (size_t chunk = 1; chunk < 200; ++chunk) {
    HeaderParser parser(file.size());
    while (!parser.done()) {
      ASSERT_LT(parser.received(), file.size());
      const size_t left = file.size() - static_cast<size_t>(parser.received());
      const size_t size = std::min(chunk, left);
      ASSERT_TRUE(parser.feed(Bytes(file).subspan(static_cast<size_t>(parser.received()), size))
                      .has_value());
    }
    ASSERT_EQ(dump(*std::move(parser).finish()), whole) << chunk;
  }
}

// What is needed never exceeds what the header turns out to be, so no read is refused a short
// file's last bytes.
TEST(HeaderParser, FinishBeforeTheEndIsAnError) {
  const File file = finished(sample_writer());
  HeaderParser parser(file.size());
  ASSERT_TRUE(parser.feed(Bytes(file).first(100)).has_value());
  const auto header = std::move(parser).finish();
  ASSERT_FALSE(header.has_value());
  EXPECT_EQ(header.error().code, ErrorCode::kTruncated);
}

TEST(HeaderParser, RefusesReadsPastTheEnd) {
  HeaderParser parser(100);
  EXPECT_EQ(parser.prepare(101).error().code, ErrorCode::kInvalidArgument);
  ASSERT_TRUE(parser.prepare(4).has_value());
  EXPECT_EQ(parser.commit(101).error().code, ErrorCode::kInvalidArgument);
}

TEST(HeaderParser, AnErrorIsFinal) {
  HeaderParser parser(100);
  const std::string junk(50, 'x');
  EXPECT_EQ(parser.feed(std::as_bytes(std::span(junk))).error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(parser.wanted(), 0u);
  EXPECT_EQ(parser.feed(std::as_bytes(std::span(junk))).error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(std::move(parser).finish().error().code, ErrorCode::kInvalidFormat);
}

// A file that this writer did not make.
TEST(HeaderParser, ReadsAModelOfAnotherWriter) {
  File file;
  std::FILE* in = std::fopen(LAPIDARY_ROOT "/tests/fixtures/gemma4/tiny-e.gguf", "rb");
  ASSERT_NE(in, nullptr);
  std::byte buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, in)) > 0;) {
    file.insert(file.end(), buffer, buffer + n);
  }
  std::fclose(in);
  const auto header = parse_header(file);
  ASSERT_TRUE(header.has_value()) << header.error().message;
  EXPECT_EQ(header->get_string("general.architecture").value(), "gemma4");
  EXPECT_EQ(header->get_u32("gemma4.embedding_length").value(), 32u);
  const size_t layers = header->get_u32("gemma4.block_count").value();
  EXPECT_EQ(header->get_u32s("gemma4.feed_forward_length", layers)->size(), layers);
  EXPECT_EQ(header->get_bools("gemma4.attention.sliding_window_pattern", layers)->size(), layers);
  EXPECT_EQ(header->get_array("tokenizer.ggml.tokens")->size(), 295u);
  const TensorInfo* embedding = header->tensor("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->dims, (std::array<uint64_t, 4>{32, 295, 1, 1}));
  uint64_t end = 0;
  for (const TensorInfo& info : header->tensors()) end = std::max(end, info.offset + info.bytes);
  EXPECT_LE(end, file.size());
  EXPECT_GT(end + 32, file.size());
}

// A vocabulary of the real size: few reads, little more memory than the header itself, and the
// tensor data (which a sparse "file" of 3 GB claims to hold) is never asked for.
TEST(HeaderParser, RealSizedVocabularyTakesFewReads) {
  Writer writer;
  std::vector<std::string> tokens, merges;
  for (int i = 0; i < 262144; ++i) tokens.push_back(cat("token", i));
  for (int i = 0; i < 514906; ++i) merges.push_back(cat("left", i, " right"));
  const auto add = [&](std::string_view key, const std::vector<std::string>& texts) {
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    writer.add_strings(key, views);
  };
  add("tokenizer.ggml.tokens", tokens);
  const std::vector<float> scores(tokens.size(), -1000.0f);
  writer.add_array<float>("tokenizer.ggml.scores", scores);
  add("tokenizer.ggml.merges", merges);
  const File file = finished(writer);
  const uint64_t claimed = uint64_t{3} << 30;
  HeaderParser parser(claimed);
  int reads = 0;
  while (!parser.done()) {
    const size_t size = parser.wanted();
    ASSERT_GT(size, 0u);
    ASSERT_LE(size, size_t{8} << 20);
    const auto room = parser.prepare(size);
    ASSERT_TRUE(room.has_value());
    const auto at = static_cast<size_t>(parser.received());
    const size_t there = std::min(size, file.size() - std::min(at, file.size()));
    if (there > 0) std::memcpy(room->data(), file.data() + at, there);
    std::fill(room->begin() + static_cast<std::ptrdiff_t>(there), room->end(), std::byte{0});
    ASSERT_TRUE(parser.commit(size).has_value());
    ++reads;
  }
  EXPECT_LE(reads, 8);
  EXPECT_LE(parser.received(), file.size() + (size_t{4} << 20));
  const auto header = std::move(parser).finish();
  ASSERT_TRUE(header.has_value());
  EXPECT_LE(header->header_bytes(), file.size());
  size_t i = 0;
  for (const std::string_view merge : header->get_array("tokenizer.ggml.merges")->strings()) {
    ASSERT_EQ(merge, merges[i++]);
  }
  EXPECT_EQ(i, merges.size());
}

TEST(Writer, CopiesMetadataOfAnotherFile) {
  const File file = finished(sample_writer());
  const auto header = parse_header(file);
  ASSERT_TRUE(header.has_value());
  Writer copy;
  for (const KeyValue& entry : header->metadata()) copy.add(entry.key, entry.value);
  for (const TensorInfo& info : header->tensors()) {
    copy.add_tensor(info.name, std::span(info.dims).first(info.n_dims), info.type,
                    Bytes(file).subspan(info.offset, info.bytes));
  }
  EXPECT_EQ(finished(copy), file);
}

TEST(Writer, RefusesWhatNoReaderWouldTake) {
  const auto message = [](Writer& writer) {
    const auto file = writer.finish();
    return file ? std::string("accepted") : file.error().message;
  };
  Writer version(4), alignment(3, 24);
  EXPECT_EQ(message(version), "GGUF writer: version 4 is not 2 or 3");
  EXPECT_EQ(message(alignment), "GGUF writer: alignment 24 is not a power of two");
  Writer twice;
  twice.add("a", true);
  twice.add("a", false);
  EXPECT_EQ(message(twice), "GGUF writer: metadata key 'a' was added twice");
  Writer unnamed;
  unnamed.add("", true);
  EXPECT_EQ(message(unnamed), "GGUF writer: a metadata key is empty");
  Writer long_name;
  long_name.add_tensor(std::string(65, 'n'), {1}, TensorType::kF32, bytes_of({1}));
  EXPECT_NE(message(long_name).find("is longer than 64 bytes"), std::string::npos);
  Writer dims;
  dims.add_tensor("t", {1, 1, 1, 1, 1}, TensorType::kF32, bytes_of({1}));
  EXPECT_EQ(message(dims), "GGUF writer: tensor 't' has over 4 dimensions");
  Writer zero;
  zero.add_tensor("t", {0}, TensorType::kF32, Bytes());
  EXPECT_EQ(message(zero), "GGUF writer: tensor 't' has unusable dimensions");
  Writer size;
  size.add_tensor("t", {2}, TensorType::kF32, bytes_of({1}));
  EXPECT_EQ(message(size), "GGUF writer: tensor 't' has 4 bytes of data, not 8");
  Writer row;
  row.add_tensor("t", {16, 2}, TensorType::kQ8_0, Bytes());
  EXPECT_EQ(message(row), "GGUF writer: tensor 't' has rows of 16 elements, not whole blocks");
}

}  // namespace
}  // namespace lapidary::gguf
