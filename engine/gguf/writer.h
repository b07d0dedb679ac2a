// Builds a GGUF file in memory: for tests, adapters and tools.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/gguf/tensor_type.h"
#include "engine/gguf/value.h"

namespace lapidary::gguf {

// A larger file should be streamed to its destination instead.
inline constexpr uint64_t kMaxFileBytes = 1 << 30;

// Entries are written in the order they are added. What is wrong with an entry is reported by
// finish().
class Writer {
 public:
  // `version` 2 or 3. An `alignment` other than the default of 32 is written as general.alignment.
  explicit Writer(uint32_t version = 3, uint32_t alignment = 32);
  Writer(Writer&&) = default;
  Writer& operator=(Writer&&) = default;

  // One value; its metadata type follows from the C++ type: add("general.file_type", uint32_t{15}).
  template <ScalarValue T>
  void add(std::string_view key, T value) {
    add_value(key, value_type_of<T>(), std::as_bytes(std::span(&value, 1)));
  }
  void add(std::string_view key, std::string_view text);
  // An array: add_array<int32_t>("x", {1, 2}), add_strings("y", {"a", "b"}).
  template <ScalarValue T>
  void add_array(std::string_view key, std::span<const T> values) {
    add_array_value(key, value_type_of<T>(), values.size(), std::as_bytes(values));
  }
  template <ScalarValue T>
  void add_array(std::string_view key, std::initializer_list<T> values) {
    add_array(key, std::span<const T>(values.begin(), values.size()));
  }
  void add_strings(std::string_view key, std::span<const std::string_view> values);
  void add_strings(std::string_view key, std::initializer_list<std::string_view> values) {
    add_strings(key, std::span(values.begin(), values.size()));
  }
  // A value of any type, as find() returns it: copies metadata from another file.
  void add(std::string_view key, const Value& value);

  // dims: ne0 (the row length) first, at most four, none 0. `data` must live until finish(); the
  // second form keeps it. Its size is that of the type and the dims.
  void add_tensor(std::string_view name, std::span<const uint64_t> dims, TensorType type,
                  Bytes data);
  void add_tensor(std::string_view name, std::span<const uint64_t> dims, TensorType type,
                  std::vector<std::byte>&& data);
  void add_tensor(std::string_view name, std::initializer_list<uint64_t> dims, TensorType type,
                  Bytes data) {
    add_tensor(name, std::span(dims.begin(), dims.size()), type, data);
  }
  void add_tensor(std::string_view name, std::initializer_list<uint64_t> dims, TensorType type,
                  std::vector<std::byte>&& data) {
    add_tensor(name, std::span(dims.begin(), dims.size()), type, std::move(data));
  }

  // The file. kInvalidArgument if an entry is unusable: an empty, too long or repeated key or name,
  // too many dimensions, data of the wrong size; or if the file would exceed kMaxFileBytes.
  Result<std::vector<std::byte>> finish() const;

 private:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;
    TensorType type;
    Bytes data;
    std::vector<std::byte> owned;  // what `data` views, in the form that keeps it
  };

  void add_value(std::string_view key, ValueType type, Bytes value);
  void add_array_value(std::string_view key, ValueType element_type, size_t count, Bytes elements);
  void begin_entry(std::string_view key, ValueType type);
  Status check() const;

  uint32_t version_;
  uint32_t alignment_;
  std::vector<std::byte> metadata_;  // as it will lie in the file
  std::vector<std::string> keys_;
  std::vector<Tensor> tensors_;
};

}  // namespace lapidary::gguf
