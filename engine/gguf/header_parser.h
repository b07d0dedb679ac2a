// Parses a GGUF header from a growing prefix of the file. It says which bytes it wants next and
// never looks at any byte twice; reading them is the caller's business, synchronous or not:
//
//   HeaderParser parser(file_size);
//   while (!parser.done()) {
//     TRY(const std::span<std::byte> room, parser.prepare(parser.wanted()));
//     … read room.size() bytes of the file at parser.received() into room …
//     TRY_VOID(parser.commit(room.size()));
//   }
//   TRY(Header header, std::move(parser).finish());
//
// The file is hostile: every count, length, offset and product is checked against the file's size
// and the limits below before it is used, and each kind of damage has its own message.
#pragma once

#include "engine/gguf/header.h"

namespace lapidary::gguf {

inline constexpr uint64_t kMaxKeyValues = 1 << 16;
inline constexpr uint64_t kMaxTensors = 1 << 16;
inline constexpr uint64_t kMaxKeyBytes = (1 << 16) - 1;
inline constexpr uint64_t kMaxTensorNameBytes = 64;
inline constexpr uint64_t kMaxStringBytes = 32 << 20;
inline constexpr uint64_t kMaxArrayElements = 16 << 20;
inline constexpr uint64_t kMaxHeaderBytes = 128 << 20;
inline constexpr uint32_t kDefaultAlignment = 32;

class HeaderParser {
 public:
  explicit HeaderParser(uint64_t file_size) : file_size_(file_size) {}

  bool done() const { return stage_ == Stage::kDone; }
  // Length of the prefix received so far, which is where the next read begins.
  uint64_t received() const { return bytes_.size(); }
  // How much to read next: what the header is known to need and generously more, so that a few
  // reads suffice, but never past the file's end. 0 when done. A caller may read less (or more)
  // than this.
  size_t wanted() const;

  // Room for the next `size` bytes of the file, for the caller to fill; valid until the next call
  // of a member. kInvalidArgument past the file's end, kOutOfMemory if the memory is not there.
  Result<std::span<std::byte>> prepare(size_t size);
  // The first `size` bytes of the room are filled: parses as far as they allow. An error is final:
  // kInvalidFormat, kTruncated (the file is shorter than it says) or kUnsupported (big-endian, v1,
  // split, unknown tensor type, over a limit).
  Status commit(size_t size);
  // prepare, copy, commit.
  Status feed(Bytes bytes);

  // The header, once done(); kTruncated before that.
  Result<Header> finish() &&;

 private:
  enum class Stage { kPreamble, kKeyValues, kStrings, kTensors, kDone };
  struct Range {
    size_t offset = 0, size = 0;
  };
  // Offsets rather than views, since the bytes move as they grow.
  struct KeyValueRef {
    Range key, value;
    ValueType type = ValueType::kUint8, element_type = ValueType::kUint8;
    size_t count = 0;
  };
  struct TensorRef {
    Range name;
    TensorInfo info;
  };
  // Each returns false if it needs more bytes (needed_ says how many), and then has changed nothing
  // else.
  Result<bool> step();
  Result<bool> parse_preamble();
  Result<bool> parse_key_value();
  Result<bool> parse_array(uint64_t at, KeyValueRef& ref);
  Result<bool> parse_strings();
  Result<bool> parse_tensor();
  // A length and its bytes at `at`, which moves past them.
  Result<bool> parse_string(uint64_t& at, uint64_t max_size, std::string_view what, Range& string);
  // Are the bytes up to `end` there? An error if the file cannot have them.
  Result<bool> available(uint64_t end);

  Status end_key_values();
  Status end_tensors();
  Status check_tensor(TensorInfo& info, std::string_view name);

  template <typename T>
  T at(uint64_t offset) const {
    return load<T>(bytes_.view(), static_cast<size_t>(offset));
  }
  std::string_view text(Range range) const {
    return {reinterpret_cast<const char*>(bytes_.view().data()) + range.offset, range.size};
  }
  const KeyValueRef* find(std::string_view key) const;
  Value value(const KeyValueRef& ref) const;
  std::string where() const;

  uint64_t file_size_;
  GrowingBytes bytes_;
  Stage stage_ = Stage::kPreamble;
  uint64_t position_ = 0;  // start of the first item not yet parsed
  uint64_t needed_ = 4;    // no progress is possible before the prefix is this long
  Status failure_;

  uint32_t version_ = 0;
  uint32_t alignment_ = kDefaultAlignment;
  uint64_t data_offset_ = 0;
  uint64_t n_key_values_ = 0, n_tensors_ = 0;
  KeyValueRef strings_;        // the string array being walked
  uint64_t strings_left_ = 0;  // of its elements
  std::vector<KeyValueRef> key_values_;
  std::vector<TensorRef> tensors_;
  std::vector<uint32_t> key_value_order_, tensor_order_;  // sorted by key, by name
};

// Parses a file that is in memory as a whole. The header copies the bytes it needs.
Result<Header> parse_header(Bytes file);

}  // namespace lapidary::gguf
