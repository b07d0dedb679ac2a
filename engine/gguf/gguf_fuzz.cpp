// Any bytes as a GGUF file: parsed whole and in pieces of varying size, which must agree; every
// view is then read, and small tensors are decoded.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "engine/gguf/codec.h"
#include "engine/gguf/header_parser.h"

namespace lapidary::gguf {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "gguf_fuzz: %s\n", what);
  std::abort();
}

// Reads all that a value shows; the sum keeps the compiler from dropping the reads.
uint64_t touch(const Value& value) {
  uint64_t sum =
      value.as_uint().value_or(0) + static_cast<uint64_t>(value.as_bool().value_or(false));
  if (const auto text = value.as_string()) {
    for (const char c : *text) sum += static_cast<unsigned char>(c);
  }
  if (const auto array = value.as_array()) {
    size_t strings = 0;
    for (const std::string_view text : array->strings()) {
      for (const char c : text) sum += static_cast<unsigned char>(c);
      ++strings;
    }
    require(array->element_type() != ValueType::kString || strings == array->size(),
            "string count");
    for (size_t i = 0; i <= array->size(); ++i) {
      sum += array->uint_at(i).value_or(0) + static_cast<uint64_t>(array->int_at(i).value_or(0));
      sum += static_cast<uint64_t>(array->bool_at(i).value_or(false));
      sum += array->float_at(i).has_value();
    }
  }
  return sum;
}

uint64_t check_header(const Header& header, Bytes file) {
  uint64_t sum = 0;
  for (const KeyValue& entry : header.metadata()) {
    require(header.find(entry.key) == &entry.value, "find() misses a key");
    sum += touch(entry.value);
    sum += header.get_u32s(entry.key, 3).has_value() + header.get_bools(entry.key, 3).has_value();
  }
  for (const TensorInfo& info : header.tensors()) {
    require(header.tensor(info.name) == &info, "tensor() misses a name");
    require(info.offset <= file.size() && info.bytes <= file.size() - info.offset, "tensor bounds");
    if (info.elements() > 4096) continue;
    std::vector<float> out(static_cast<size_t>(info.elements()));
    const Bytes data =
        file.subspan(static_cast<size_t>(info.offset), static_cast<size_t>(info.bytes));
    require(
        decode_block_row(info.type, data, out).has_value() == tensor_type_info(info.type).decodable,
        "decoding a sound tensor");
    for (const float v : out) sum += std::bit_cast<uint32_t>(v);
  }
  return sum;
}

}  // namespace
}  // namespace lapidary::gguf

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lapidary;
  using namespace lapidary::gguf;
  const Bytes file = std::as_bytes(std::span(data, size));
  const auto whole = parse_header(file);

  // Pieces whose sizes follow from the input itself.
  uint32_t random = 2166136261u;
  for (size_t i = 0; i < std::min<size_t>(size, 64); ++i) random = (random ^ data[i]) * 16777619u;
  HeaderParser parser(size);
  Status status;
  do {
    random = random * 1664525u + 1013904223u;
    const auto at = static_cast<size_t>(parser.received());
    require(parser.wanted() <= size - at, "wants bytes past the end");
    require(at == size || parser.wanted() > 0, "stalled");
    const size_t piece = std::min<size_t>(1 + (random >> 16) % 97, size - at);
    status = parser.feed(file.subspan(at, piece));
  } while (status && !parser.done());
  require(status.has_value() == whole.has_value(), "pieces and whole disagree");
  if (!status) {
    require(status.error().message == whole.error().message,
            "pieces and whole differ in the error");
    return 0;
  }
  const auto pieces = std::move(parser).finish();
  require(pieces.has_value(), "finish() after done()");
  require(check_header(*pieces, file) == check_header(*whole, file), "pieces and whole differ");
  return 0;
}
