// A parsed GGUF header (v2, v3): metadata and tensor directory. It owns the header's bytes and
// nothing of the tensor data; keys, names and values are views into it.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/gguf/growing_bytes.h"
#include "engine/gguf/tensor_type.h"
#include "engine/gguf/value.h"

namespace lapidary::gguf {

struct KeyValue {
  std::string_view key;
  Value value;
};

struct TensorInfo {
  std::string_view name;
  uint32_t n_dims;               // as written; 0 to 4, 0 being a scalar
  std::array<uint64_t, 4> dims;  // ne0 (the row length, contiguous) first; padded with 1; none is 0
  TensorType type;               // always in the table of tensor_type.h, not always decodable
  uint64_t offset;  // of the first byte, from the file's start; offset + bytes <= file size
  uint64_t bytes;

  uint64_t elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }  // < 2^63
  uint64_t rows() const { return dims[1] * dims[2] * dims[3]; }
};

class Header {
 public:
  Header(Header&&) = default;  // views stay valid
  Header& operator=(Header&&) = default;

  uint32_t version() const { return version_; }      // 2 or 3
  uint32_t alignment() const { return alignment_; }  // a power of two
  uint64_t data_offset() const {
    return data_offset_;
  }  // of the data section, from the file's start
  uint64_t file_size() const { return file_size_; }
  size_t header_bytes() const { return bytes_.size(); }  // memory held for the views

  // The file's first bytes, up to the first tensor's entry: magic, version, counts and metadata.
  Bytes preamble() const;

  // In the order of the file.
  std::span<const KeyValue> metadata() const { return metadata_; }
  std::span<const TensorInfo> tensors() const { return tensors_; }

  // nullptr if absent; O(log n).
  const Value* find(std::string_view key) const;
  const TensorInfo* tensor(std::string_view name) const;

  // Typed access. kNotFound if the key is absent, kInvalidFormat if its value is of another kind or
  // out of range.
  Result<uint64_t> get_uint(std::string_view key) const;  // any integer type, not negative
  Result<uint32_t> get_u32(std::string_view key) const;   // the same, below 2^32
  Result<double> get_float(std::string_view key) const;   // f32 or f64
  Result<bool> get_bool(std::string_view key) const;
  Result<std::string_view> get_string(std::string_view key) const;
  Result<ArrayView> get_array(std::string_view key) const;

  // The same, but an absent key gives `absent`. A value of the wrong kind is still an error.
  Result<uint64_t> get_uint(std::string_view key, uint64_t absent) const;
  Result<uint32_t> get_u32(std::string_view key, uint32_t absent) const;
  Result<double> get_float(std::string_view key, double absent) const;
  Result<bool> get_bool(std::string_view key, bool absent) const;
  Result<std::string_view> get_string(std::string_view key, std::string_view absent) const;

  // One number for each of `count` layers, from an integer array of exactly that length or from a
  // scalar that holds for all. get_bools: the same for flags.
  Result<std::vector<uint32_t>> get_u32s(std::string_view key, size_t count) const;
  Result<std::vector<bool>> get_bools(std::string_view key, size_t count) const;
  // A list of integers of any length up to `max_count`; a scalar is a list of one.
  Result<std::vector<uint32_t>> get_u32_list(std::string_view key, size_t max_count) const;

 private:
  friend class HeaderParser;
  Header() = default;

  uint32_t version_ = 0;
  uint32_t alignment_ = 0;
  uint64_t data_offset_ = 0;
  uint64_t file_size_ = 0;
  GrowingBytes bytes_;
  std::vector<KeyValue> metadata_;
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> metadata_order_;  // indices into metadata_, sorted by key
  std::vector<uint32_t> tensor_order_;    // indices into tensors_, sorted by name
};

}  // namespace lapidary::gguf
