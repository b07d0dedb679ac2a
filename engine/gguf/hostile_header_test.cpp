// Files made to hurt: each kind of damage is refused with its own message, whole or read in pieces.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gguf/header_parser.h"

namespace lapidary::gguf {
namespace {

constexpr uint32_t kU8 = 0, kU32 = 4, kI32 = 5, kText = 8, kArray = 9, kU64 = 10;

// Writes fields as they come, right or wrong.
class Raw {
 public:
  template <typename T>
  Raw& put(T value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    file_.insert(file_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Raw& bytes(std::string_view text) {
    for (const char c : text) put(c);
    return *this;
  }
  Raw& text(std::string_view text) { return put(uint64_t{text.size()}).bytes(text); }
  Raw& preamble(uint64_t tensors, uint64_t key_values, uint32_t version = 3) {
    return bytes("GGUF").put(version).put(tensors).put(key_values);
  }
  Raw& u32(std::string_view key, uint32_t value) { return text(key).put(kU32).put(value); }
  Raw& array(std::string_view key, uint32_t element_type, uint64_t count) {
    return text(key).put(kArray).put(element_type).put(count);
  }
  Raw& tensor(std::string_view name, std::initializer_list<uint64_t> dims, uint32_t type,
              uint64_t offset) {
    text(name).put(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) put(dim);
    return put(type).put(offset);
  }
  // Pads as the data section requires and appends that many bytes of data.
  Raw& data(size_t size, size_t alignment = 32) {
    file_.resize((file_.size() + alignment - 1) / alignment * alignment + size);
    return *this;
  }
  Raw& zeros(size_t size) {
    file_.resize(file_.size() + size);
    return *this;
  }
  std::vector<std::byte> done() const { return file_; }

 private:
  std::vector<std::byte> file_;
};

struct Case {
  std::string name;
  std::vector<std::byte> file;
  ErrorCode code;
  std::string message;  // a part of it that no other case has
};

constexpr uint64_t kHuge = uint64_t{1} << 63;

std::vector<Case> cases() {
  using enum ErrorCode;
  return {
      // The preamble.
      {"HEADER_EMPTY", {}, kTruncated, "the model file is empty"},
      {"HEADER_SHORT", Raw().bytes("GGUF").put(3u).done(), kTruncated, "in the first 24 bytes"},
      {"HEADER_BAD_MAGIC", Raw().bytes("GGML").zeros(60).done(), kInvalidFormat,
       "not a GGUF file: it starts with 'GGML'"},
      {"HEADER_BAD_VERSION", Raw().preamble(0, 0, 4).zeros(60).done(), kUnsupported,
       "GGUF version 4 is not known"},
      {"HEADER_VERSION_ZERO", Raw().preamble(0, 0, 0).zeros(60).done(), kUnsupported,
       "GGUF version 0 is not known"},
      {"HEADER_VERSION_ONE", Raw().preamble(0, 0, 1).zeros(60).done(), kUnsupported,
       "GGUF version 1 is obsolete"},
      {"HEADER_BIG_ENDIAN", Raw().preamble(0, 0, 0x03000000).zeros(60).done(), kUnsupported,
       "big-endian"},
      {"HEADER_BAD_N_TENSORS", Raw().preamble(~uint64_t{0}, 0).zeros(60).done(), kInvalidFormat,
       "claims 18446744073709551615 tensors"},
      {"HEADER_MANY_TENSORS_FOR_THE_FILE", Raw().preamble(3, 0).zeros(60).done(), kInvalidFormat,
       "claims 3 tensors; a file of 84 bytes holds at most 2"},
      {"HEADER_BAD_N_KV", Raw().preamble(0, ~uint64_t{0}).zeros(60).done(), kInvalidFormat,
       "claims 18446744073709551615 metadata entries"},
      {"HEADER_MANY_KV_FOR_THE_FILE", Raw().preamble(0, 5).zeros(60).done(), kInvalidFormat,
       "claims 5 metadata entries; a file of 84 bytes holds at most 4"},
      // Metadata.
      {"KV_BAD_KEY_SIZE", Raw().preamble(0, 1).put(~uint64_t{0}).zeros(60).done(), kInvalidFormat,
       "the key in metadata entry 1 of 1 claims 18446744073709551615 bytes"},
      {"KV_EMPTY_KEY", Raw().preamble(0, 1).u32("", 1).zeros(60).done(), kInvalidFormat,
       "the key of metadata entry 1 of 1 is empty"},
      {"KV_KEY_PAST_THE_END", Raw().preamble(0, 1).put(uint64_t{1000}).zeros(60).done(), kTruncated,
       "in metadata entry 1 of 1: that needs 1032 bytes, the file has 92"},
      {"KV_BAD_TYPE", Raw().preamble(0, 1).text("k").put(13u).zeros(60).done(), kInvalidFormat,
       "'k' has the unknown value type 13"},
      {"KV_BAD_STRING_SIZE", Raw().preamble(0, 1).text("k").put(kText).put(kHuge).zeros(60).done(),
       kInvalidFormat, "the string in metadata entry 1 of 1 claims 9223372036854775808 bytes"},
      {"KV_STRING_PAST_THE_END",
       Raw().preamble(0, 2).u32("a", 1).text("k").put(kText).put(uint64_t{9999}).zeros(60).done(),
       kTruncated, "in metadata entry 2 of 2: that needs"},
      {"KV_BAD_ARRAY_TYPE", Raw().preamble(0, 1).array("k", 77, 1).zeros(60).done(), kInvalidFormat,
       "is an array of the unknown element type 77"},
      {"KV_NESTED_ARRAY", Raw().preamble(0, 1).array("k", kArray, 1).zeros(60).done(), kUnsupported,
       "is an array of arrays"},
      {"KV_BAD_ARRAY_COUNT", Raw().preamble(0, 1).array("k", kU64, kHuge / 4).zeros(60).done(),
       kInvalidFormat, "claims an array of 2305843009213693952 elements"},
      {"KV_ARRAY_PAST_THE_END", Raw().preamble(0, 1).array("k", kU64, 1 << 20).zeros(60).done(),
       kTruncated, "in metadata entry 1 of 1: that needs 8388657 bytes, the file has 109"},
      {"KV_STRING_ARRAY_PAST_THE_END",
       Raw().preamble(0, 1).array("k", kText, 1 << 20).zeros(60).done(), kTruncated,
       "in the strings of metadata key 'k': that needs 8388657 bytes"},
      {"KV_BAD_STRING_SIZE_IN_ARRAY",
       Raw().preamble(0, 1).array("k", kText, 2).text("ok").put(kHuge).zeros(60).done(),
       kInvalidFormat, "a string in the strings of metadata key 'k' claims 9223372036854775808"},
      {"KV_DUPLICATE_KEY",
       Raw().preamble(0, 3).u32("twice", 1).u32("b", 1).u32("twice", 1).zeros(60).done(),
       kInvalidFormat, "metadata key 'twice' occurs twice"},
      {"KV_BAD_ALIGN",
       Raw().preamble(0, 1).text("general.alignment").put(kText).text("32").zeros(60).done(),
       kInvalidFormat, "general.alignment is of type string, not u32"},
      {"KV_ZERO_ALIGN", Raw().preamble(0, 1).u32("general.alignment", 0).zeros(60).done(),
       kInvalidFormat, "general.alignment is 0, not a power of two"},
      {"KV_SPLIT_FILE",
       Raw().preamble(0, 2).u32("split.no", 1).u32("split.count", 3).zeros(60).done(), kUnsupported,
       "the file is part 2 of a model split in 3 parts"},
      {"KV_SPLIT_FILE_OF_UNKNOWN_COUNT",
       Raw().preamble(0, 1).text("split.count").put(kI32).put(-1).zeros(60).done(), kUnsupported,
       "the file is one part of a model split in several parts"},
      // The tensor directory.
      {"TENSORS_BAD_NAME_SIZE", Raw().preamble(1, 0).put(uint64_t{65}).zeros(99).done(),
       kInvalidFormat, "the name in tensor entry 1 of 1 claims 65 bytes; at most 64"},
      {"TENSORS_EMPTY_NAME", Raw().preamble(1, 0).tensor("", {1}, 0, 0).data(32).done(),
       kInvalidFormat, "the name of tensor entry 1 of 1 is empty"},
      {"TENSORS_BAD_N_DIMS",
       Raw().preamble(1, 0).tensor("t", {1, 1, 1, 1, 1}, 0, 0).data(32).done(), kInvalidFormat,
       "'t' claims 5 dimensions; at most 4"},
      {"TENSORS_HUGE_N_DIMS", Raw().preamble(1, 0).text("t").put(0x20000000u).zeros(60).done(),
       kInvalidFormat, "'t' claims 536870912 dimensions"},
      {"TENSORS_BAD_SHAPE", Raw().preamble(1, 0).tensor("t", {~uint64_t{0}}, 0, 0).data(32).done(),
       kInvalidFormat, "has a dimension of 18446744073709551615, a negative number"},
      {"TENSORS_ZERO_DIM", Raw().preamble(1, 0).tensor("t", {8, 0}, 0, 0).data(32).done(),
       kInvalidFormat, "'t' has a dimension of 0"},
      {"TENSORS_NE_TOO_BIG",
       Raw()
           .preamble(1, 0)
           .tensor("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0)
           .data(32)
           .done(),
       kInvalidFormat, "more elements than 63 bits can count"},
      {"TENSORS_NBYTES_TOO_BIG",
       Raw()
           .preamble(1, 0)
           .tensor("t", {uint64_t{1} << 31, uint64_t{1} << 31}, 0, 0)
           .data(32)
           .done(),
       kInvalidFormat, "is too large: the size in bytes of 4611686018427387904 elements of F32"},
      {"TENSORS_BAD_TYPE", Raw().preamble(1, 0).tensor("t", {32}, 4, 0).data(32).done(),
       kUnsupported, "'t' has the unknown type 4"},
      {"TENSORS_NEGATIVE_TYPE", Raw().preamble(1, 0).tensor("t", {32}, ~0u, 0).data(32).done(),
       kUnsupported, "'t' has the unknown type 4294967295"},
      {"TENSORS_PART_OF_A_BLOCK",
       Raw().preamble(1, 0).tensor("t", {128, 2}, 12, 0).data(144).done(), kInvalidFormat,
       "rows of 128 elements, which are not a whole number of Q4_K blocks of 256"},
      {"TENSORS_BAD_OFFSET", Raw().preamble(1, 0).tensor("t", {8}, 0, 1 << 20).data(32).done(),
       kInvalidFormat, "'t' begins at offset 1048576, past the end"},
      {"TENSORS_DUPLICATE_NAME",
       Raw().preamble(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).data(64).done(),
       kInvalidFormat, "tensor name 't' occurs twice"},
      {"TENSORS_BAD_ALIGN",
       Raw().preamble(1, 1).u32("general.alignment", 24).tensor("t", {8}, 0, 0).data(32, 24).done(),
       kInvalidFormat, "general.alignment is 24, not a power of two"},
      {"TENSORS_INCONSISTENT_ALIGN",
       Raw()
           .preamble(1, 1)
           .u32("general.alignment", 64)
           .tensor("t", {8}, 0, 32)
           .data(64, 64)
           .done(),
       kInvalidFormat, "begins at offset 32, which is not a multiple of the alignment 64"},
      {"TENSORS_PAST_THE_END",
       Raw().preamble(2, 0).tensor("t", {8}, 0, 0).put(uint64_t{50}).zeros(20).done(), kTruncated,
       "in tensor entry 2 of 2: that needs"},
      // The data section.
      {"DATA_NOT_ENOUGH", Raw().preamble(1, 0).tensor("t", {16}, 0, 0).data(63).done(), kTruncated,
       "the data of tensor 't' ends 1 bytes past the end of the file"},
      {"DATA_BAD_ALIGN",
       Raw()
           .preamble(1, 1)
           .u32("general.alignment", 1u << 31)
           .tensor("t", {8}, 0, 0)
           .data(64)
           .done(),
       kTruncated, "the data section would begin at byte 2147483648"},
      {"DATA_MEM_SIZE_OVERFLOW",
       Raw().preamble(1, 0).tensor("t", {16}, 0, ~uint64_t{31}).data(64).done(), kInvalidFormat,
       "'t' of 64 bytes at offset 18446744073709551584 overflows 64 bits"},
  };
}

class HostileHeader : public testing::TestWithParam<Case> {};

TEST_P(HostileHeader, IsRefusedByName) {
  const Case& hostile = GetParam();
  const auto header = parse_header(hostile.file);
  ASSERT_FALSE(header.has_value());
  EXPECT_EQ(header.error().code, hostile.code) << header.error().message;
  EXPECT_NE(header.error().message.find(hostile.message), std::string::npos)
      << header.error().message;
  // Read in pieces, the file is refused with the same words.
  for (const size_t chunk : {1, 7, 31}) {
    HeaderParser parser(hostile.file.size());
    Status status;
    do {
      const size_t left = hostile.file.size() - static_cast<size_t>(parser.received());
      status =
          parser.feed(Bytes(hostile.file)
                          .subspan(static_cast<size_t>(parser.received()), std::min(chunk, left)));
    } while (status && !parser.done());
    ASSERT_FALSE(status.has_value()) << chunk;
    EXPECT_EQ(status.error().message, header.error().message) << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, HostileHeader, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(HostileHeaders, HaveOneMessageEach) {
  std::set<std::string> messages, parts;
  for (const Case& hostile : cases()) {
    const auto header = parse_header(hostile.file);
    ASSERT_FALSE(header.has_value()) << hostile.name;
    EXPECT_TRUE(messages.insert(header.error().message).second) << hostile.name;
    EXPECT_TRUE(parts.insert(hostile.message).second) << hostile.name;
  }
}

// A file that claims to be large cannot make the parser allocate or ask for more than its limits.
TEST(HostileHeaders, CannotMakeTheHeaderEndless) {
  // Arrays of 16 Mi u64 each are 128 MiB: alone within the count's limit, but over the header's.
  const auto start = Raw().preamble(0, 1).array("k", kU64, kMaxArrayElements).done();
  HeaderParser parser(uint64_t{1} << 40);
  const Status status = parser.feed(start);
  ASSERT_FALSE(status.has_value());
  EXPECT_EQ(status.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(status.error().message.find("the header is larger than 134217728 bytes"),
            std::string::npos);
  const auto strings = Raw().preamble(0, 1).array("k", kText, kMaxArrayElements).done();
  HeaderParser other(uint64_t{1} << 40);
  EXPECT_EQ(other.feed(strings).error().code, ErrorCode::kUnsupported);
}

// The same files without their fault are accepted, so it is the fault that was refused.
TEST(HostileHeaders, SoundFilesAreAccepted) {
  const std::vector<std::vector<std::byte>> sound = {
      Raw().preamble(0, 0).done(),
      Raw().preamble(0, 0, 2).done(),
      Raw().preamble(0, 1).text("k").put(kU8).put(uint8_t{1}).done(),
      Raw().preamble(0, 1).array("k", kText, 2).text("ok").text("").done(),
      Raw().preamble(0, 2).u32("split.no", 0).u32("split.count", 1).done(),
      Raw().preamble(1, 0).tensor("t", {16}, 0, 0).data(64).done(),
      Raw().preamble(1, 1).u32("general.alignment", 64).tensor("t", {8}, 0, 64).data(96, 64).done(),
      Raw().preamble(1, 0).tensor("t", {256, 2}, 12, 0).data(288).done(),
      Raw().preamble(1, 0).tensor(std::string(64, 'n'), {1, 1, 1, 1}, 0, 0).data(4).done(),
      Raw().preamble(2, 0).tensor("s", {8}, 0, 32).tensor("t", {8}, 0, 0).data(64).done(),
  };
  for (const auto& file : sound) {
    const auto header = parse_header(file);
    EXPECT_TRUE(header.has_value()) << header.error().message;
  }
}

}  // namespace
}  // namespace lapidary::gguf
