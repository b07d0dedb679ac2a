#include "engine/gguf/value.h"

#include <limits>

namespace lapidary::gguf {
namespace {

struct ValueTypeInfo {
  std::string_view name;
  size_t bytes;
};
constexpr ValueTypeInfo kInfo[kValueTypes] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8}};

}  // namespace

std::string_view value_type_name(ValueType type) {
  const auto id = static_cast<uint32_t>(type);
  return id < kValueTypes ? kInfo[id].name : "unknown";
}

size_t value_type_bytes(ValueType type) {
  const auto id = static_cast<uint32_t>(type);
  return id < kValueTypes ? kInfo[id].bytes : 0;
}

std::optional<uint64_t> ArrayView::uint_at(size_t i) const {
  if (i < size_ && element_type_ == ValueType::kUint64) return load<uint64_t>(data_, 8 * i);
  const auto value = int_at(i);
  if (!value || *value < 0) return std::nullopt;
  return static_cast<uint64_t>(*value);
}

std::optional<int64_t> ArrayView::int_at(size_t i) const {
  if (i >= size_) return std::nullopt;
  switch (element_type_) {
    case ValueType::kUint8:
      return load<uint8_t>(data_, i);
    case ValueType::kInt8:
      return load<int8_t>(data_, i);
    case ValueType::kUint16:
      return load<uint16_t>(data_, 2 * i);
    case ValueType::kInt16:
      return load<int16_t>(data_, 2 * i);
    case ValueType::kUint32:
      return load<uint32_t>(data_, 4 * i);
    case ValueType::kInt32:
      return load<int32_t>(data_, 4 * i);
    case ValueType::kInt64:
      return load<int64_t>(data_, 8 * i);
    case ValueType::kUint64: {
      const auto value = load<uint64_t>(data_, 8 * i);
      if (value > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> ArrayView::float_at(size_t i) const {
  if (i >= size_) return std::nullopt;
  if (element_type_ == ValueType::kFloat32) return load<float>(data_, 4 * i);
  if (element_type_ == ValueType::kFloat64) return load<double>(data_, 8 * i);
  return std::nullopt;
}

std::optional<bool> ArrayView::bool_at(size_t i) const {
  if (i >= size_ || element_type_ != ValueType::kBool) return std::nullopt;
  return load<uint8_t>(data_, i) != 0;
}

std::optional<uint64_t> Value::as_uint() const { return single().uint_at(0); }
std::optional<int64_t> Value::as_int() const { return single().int_at(0); }
std::optional<double> Value::as_float() const { return single().float_at(0); }
std::optional<bool> Value::as_bool() const { return single().bool_at(0); }

std::optional<std::string_view> Value::as_string() const {
  if (type_ != ValueType::kString) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(data_.data()), data_.size());
}

std::optional<ArrayView> Value::as_array() const {
  if (type_ != ValueType::kArray) return std::nullopt;
  return ArrayView(element_type_, count_, data_);
}

}  // namespace lapidary::gguf
