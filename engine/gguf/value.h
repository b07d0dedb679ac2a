// Metadata values of a GGUF file, as views into the header's bytes: a vocabulary of 262,144 strings
// costs no allocation. A view lives as long as the Header it came from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string_view>
#include <type_traits>

#include "engine/base/bytes.h"

namespace lapidary::gguf {

// The numbers are those written in files.
enum class ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};
inline constexpr uint32_t kValueTypes = 13;

std::string_view value_type_name(ValueType type);  // "u32", "string"
// Bytes of one value in the file; 0 for strings and arrays, whose size varies.
size_t value_type_bytes(ValueType type);

// The ValueType that holds a C++ scalar.
template <typename T>
consteval ValueType value_type_of() {
  if constexpr (std::is_same_v<T, uint8_t>) return ValueType::kUint8;
  if constexpr (std::is_same_v<T, int8_t>) return ValueType::kInt8;
  if constexpr (std::is_same_v<T, uint16_t>) return ValueType::kUint16;
  if constexpr (std::is_same_v<T, int16_t>) return ValueType::kInt16;
  if constexpr (std::is_same_v<T, uint32_t>) return ValueType::kUint32;
  if constexpr (std::is_same_v<T, int32_t>) return ValueType::kInt32;
  if constexpr (std::is_same_v<T, float>) return ValueType::kFloat32;
  if constexpr (std::is_same_v<T, bool>) return ValueType::kBool;
  if constexpr (std::is_same_v<T, uint64_t>) return ValueType::kUint64;
  if constexpr (std::is_same_v<T, int64_t>) return ValueType::kInt64;
  if constexpr (std::is_same_v<T, double>) return ValueType::kFloat64;
  return ValueType::kArray;  // not a scalar
}
template <typename T>
concept ScalarValue = value_type_of<T>() != ValueType::kArray;

// The strings of an array, in order. Each is a u64 length and its bytes, so access is forward only.
class StringRange {
 public:
  class Iterator {
   public:
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;

    Iterator() = default;
    Iterator(const std::byte* at, size_t left) : at_(at), left_(left) {}
    std::string_view operator*() const {
      return {reinterpret_cast<const char*>(at_) + 8, length()};
    }
    Iterator& operator++() {
      at_ += 8 + length();
      --left_;
      return *this;
    }
    Iterator operator++(int) {
      const Iterator before = *this;
      ++*this;
      return before;
    }
    bool operator==(const Iterator& other) const { return left_ == other.left_; }

   private:
    // The parser has checked every length against the bytes there are.
    size_t length() const {
      uint64_t value;
      std::memcpy(&value, at_, sizeof value);
      return static_cast<size_t>(value);
    }

    const std::byte* at_ = nullptr;
    size_t left_ = 0;
  };

  StringRange(const std::byte* first, size_t count) : first_(first), count_(count) {}
  Iterator begin() const { return {first_, count_}; }
  Iterator end() const { return {nullptr, 0}; }
  size_t size() const { return count_; }

 private:
  const std::byte* first_;
  size_t count_;
};

// An array of scalars or of strings (arrays of arrays are refused by the parser).
class ArrayView {
 public:
  // `data`: the elements as they lie in the file, already checked to be `size` elements.
  ArrayView(ValueType element_type, size_t size, Bytes data)
      : element_type_(element_type), size_(size), data_(data) {}

  ValueType element_type() const { return element_type_; }
  size_t size() const { return size_; }
  Bytes data() const { return data_; }

  // Element i converted; nullopt if i is outside, the elements are of another kind (integer, float,
  // bool) or the value does not fit (a negative number as unsigned, say).
  std::optional<uint64_t> uint_at(size_t i) const;
  std::optional<int64_t> int_at(size_t i) const;
  std::optional<double> float_at(size_t i) const;
  std::optional<bool> bool_at(size_t i) const;

  // Empty unless the elements are strings.
  StringRange strings() const {
    return {data_.data(), element_type_ == ValueType::kString ? size_ : 0};
  }

 private:
  ValueType element_type_;
  size_t size_;
  Bytes data_;
};

// One metadata value of any type.
class Value {
 public:
  // `data`: a scalar's bytes, a string's characters or an array's elements; `element_type` and
  // `count` describe an array and are ignored otherwise.
  Value(ValueType type, Bytes data, ValueType element_type = ValueType::kUint8, size_t count = 1)
      : type_(type), element_type_(element_type), count_(count), data_(data) {}

  ValueType type() const { return type_; }
  Bytes data() const { return data_; }

  // nullopt if the value is of another kind or does not fit. Integers of every width count as
  // integers, f32 and f64 as floats; there is no conversion between the two.
  std::optional<uint64_t> as_uint() const;
  std::optional<int64_t> as_int() const;
  std::optional<double> as_float() const;
  std::optional<bool> as_bool() const;
  std::optional<std::string_view> as_string() const;
  std::optional<ArrayView> as_array() const;

 private:
  ArrayView single() const { return {type_, 1, data_}; }

  ValueType type_;
  ValueType element_type_;
  size_t count_;
  Bytes data_;
};

}  // namespace lapidary::gguf
