// The container: what is written is read back, and each kind of damage has its own message.
#include "engine/adapter/safetensors.h"

#include <gtest/gtest.h>

#include "engine/adapter/test_adapter.h"

namespace lapidary::adapter {
namespace {

using enum ErrorCode;

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const float values[] = {1, 2, 3, 4, 5, 6, 7};
  const std::vector<SafetensorsOutput> tensors = {
      {"x", {2, 3}, std::span(values, 6)},
      {"a \"quoted\" name", {1}, std::span(values + 6, 1)},
      {"empty", {0, 4}, {}},
      {"scalar", {}, std::span(values, 1)}};
  const std::vector<std::pair<std::string, std::string>> metadata = {{"format", "pt"}, {"k", ""}};
  const auto file = write_safetensors(tensors, metadata);
  ASSERT_TRUE(file.has_value());
  EXPECT_EQ(load<uint64_t>(*file, 0) % 8, 0u);
  const auto read = parse_safetensors(*file);
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(read->metadata, metadata);
  EXPECT_EQ(*read->find_metadata("format"), "pt");
  EXPECT_EQ(read->find_metadata("none"), nullptr);
  ASSERT_EQ(read->tensors.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(read->tensors[i].name, tensors[i].name);
    EXPECT_EQ(read->tensors[i].shape, tensors[i].shape);
    const auto floats = to_floats(read->tensors[i]);
    ASSERT_TRUE(floats.has_value());
    EXPECT_TRUE(std::ranges::equal(*floats, tensors[i].values));
  }
}

TEST(Safetensors, HalvesBecomeFloats) {
  auto file = raw_safetensors(R"({"h":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},)"
                              R"("b":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]},)"
                              R"("i":{"dtype":"I32","shape":[1],"data_offsets":[4,8]}})",
                              8);
  const uint16_t bits[] = {0x3e00, 0xc040};  // 1.5 and -3
  std::memcpy(file.data() + file.size() - 8, bits, 4);
  const auto read = parse_safetensors(file);
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(to_floats(read->tensors[0]), std::vector<float>{1.5f});
  EXPECT_EQ(to_floats(read->tensors[1]), std::vector<float>{-3.0f});
  expect_error(to_floats(read->tensors[2]), kUnsupported, "'i' is of dtype I32");
}

TEST(Safetensors, DamageIsRefusedByName) {
  struct Case {
    std::string_view header;
    size_t data;
    ErrorCode code;
    std::string_view text;
  };
  const Case cases[] = {
      {"", 0, kInvalidFormat, "does not begin with '{'"},
      {" {}", 0, kInvalidFormat, "does not begin with '{'"},
      {"{", 0, kInvalidFormat, "not valid JSON"},
      {"{}x", 0, kInvalidFormat, "not valid JSON"},
      {"{}{}", 0, kInvalidFormat, "not valid JSON"},
      {"{}", 1, kInvalidFormat, "behind the last tensor"},
      {R"({"a":1})", 0, kInvalidFormat, "'a': a number out of place"},
      {R"({"a":null})", 0, kInvalidFormat, "a null"},
      {R"({"a":[]})", 0, kInvalidFormat, "'a': an array out of place"},
      {R"({"a":"b"})", 0, kInvalidFormat, "a string out of place"},
      {R"({"":{}})", 0, kInvalidFormat, "name has 0 bytes"},
      {R"({"a":{}})", 0, kInvalidFormat, "has no 'dtype'"},
      {R"({"a":{"dtype":"F32","shape":[]}})", 0, kInvalidFormat, "has no 'data_offsets'"},
      {R"({"a":{"dtype":"F32","dtype":"F32"}})", 0, kInvalidFormat, "'dtype' twice"},
      {R"({"a":{"dtype":{}}})", 0, kInvalidFormat, "an object out of place"},
      {R"({"a":{"dtype":7}})", 0, kInvalidFormat, "a number out of place"},
      {R"({"a":{"dtype":["F32"]}})", 0, kInvalidFormat, "an array out of place"},
      {R"({"a":{"shape":"F32"}})", 0, kInvalidFormat, "a string out of place"},
      {R"({"a":{"shape":[[1]]}})", 0, kInvalidFormat, "an array out of place"},
      {R"({"a":{"shape":[-1]}})", 0, kInvalidFormat, "a negative number"},
      {R"({"a":{"shape":[1.5]}})", 0, kInvalidFormat, "not whole"},
      {R"({"a":{"shape":[18446744073709551616]}})", 0, kInvalidFormat, "not whole"},
      {R"({"a":{"shape":[true]}})", 0, kInvalidFormat, "a boolean"},
      {R"({"a":{"shape":[1,1,1,1,1,1,1,1,1]}})", 0, kUnsupported, "over 8 dimensions"},
      {R"({"a":{"data_offsets":[0]}})", 0, kInvalidFormat, "not two numbers"},
      {R"({"a":{"data_offsets":[0,1,2]}})", 0, kInvalidFormat, "a number out of place"},
      {R"({"a":{"other":1}})", 0, kInvalidFormat, "unknown member 'other'"},
      {R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", 4, kUnsupported,
       "unknown dtype 'F99'"},
      {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2, kInvalidFormat,
       "whole bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8, kInvalidFormat,
       "has 4 bytes by its shape"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, kInvalidFormat,
       "offsets 4 to 0"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, kTruncated,
       "3 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, kInvalidFormat,
       "unnamed bytes lie before"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       kInvalidFormat, "overflows"},
      {R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}})",
       0, kInvalidFormat, "overflows"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
       6, kInvalidFormat, "'b' overlaps"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       8, kInvalidFormat, "'a' is there twice"},
      {R"({"__metadata__":{"a":1}})", 0, kInvalidFormat, "'__metadata__': a number"},
      {R"({"__metadata__":{"a":{}}})", 0, kInvalidFormat, "an object out of place"},
      {R"({"__metadata__":{"a":"","a":""}})", 0, kInvalidFormat, "has 'a' twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, kInvalidFormat,
       "'__metadata__' is there twice"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header);
    expect_error(parse_safetensors(raw_safetensors(c.header, c.data)), c.code, c.text);
  }
}

TEST(Safetensors, LengthsAreBounded) {
  std::vector<std::byte> file(7);
  expect_error(parse_safetensors(file), kTruncated, "7 bytes");
  expect_error(parse_safetensors({}), kTruncated, "0 bytes");
  file = raw_safetensors("{}", 0);
  file[0] = std::byte{3};
  expect_error(parse_safetensors(file), kTruncated, "3 bytes, but the file ends after 10");
  file[7] = std::byte{0xff};
  expect_error(parse_safetensors(file), kUnsupported, "at most 16777216");
}

// Deep nesting ends at the first bracket that is out of place, so depth costs no stack.
TEST(Safetensors, DeepNestingIsRefused) {
  expect_error(parse_safetensors(raw_safetensors("{\"a\":" + std::string(1 << 20, '['), 0)),
               kInvalidFormat, "an array out of place");
}

TEST(Safetensors, WriterRefusesWhatDoesNotFit) {
  const float value = 1;
  const SafetensorsOutput good{"a", {1}, std::span(&value, 1)};
  const SafetensorsOutput wrong{"a", {2}, std::span(&value, 1)};
  expect_error(write_safetensors(std::vector{good, good}, {}), kInvalidArgument, "twice");
  expect_error(write_safetensors(std::vector{wrong}, {}), kInvalidArgument, "1 values, not 2");
}

}  // namespace
}  // namespace lapidary::adapter
