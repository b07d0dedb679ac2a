#include "engine/gguf/header.h"

#include <algorithm>
#include <limits>

#include "engine/base/text.h"

namespace lapidary::gguf {
namespace {

std::unexpected<Error> missing(std::string_view key) {
  return fail(ErrorCode::kNotFound,
              cat("the model file has no metadata key '", printable(key), "'"));
}

std::unexpected<Error> wrong_kind(std::string_view key, const Value& value,
                                  std::string_view wanted) {
  const auto array = value.as_array();
  return fail(
      ErrorCode::kInvalidFormat,
      cat("metadata key '", printable(key), "' should be ", wanted, ", but is ",
          array ? cat("an array of ", array->size(), " ", value_type_name(array->element_type()))
                : cat("of type ", value_type_name(value.type()))));
}

constexpr uint64_t kMaxU32 = std::numeric_limits<uint32_t>::max();

}  // namespace

Bytes Header::preamble() const {
  if (tensors_.empty()) return bytes_.view();
  const auto* name = reinterpret_cast<const std::byte*>(tensors_.front().name.data());
  return bytes_.view().first(static_cast<size_t>(name - bytes_.view().data()) - sizeof(uint64_t));
}

const Value* Header::find(std::string_view key) const {
  const auto it = std::ranges::lower_bound(metadata_order_, key, {},
                                           [&](uint32_t i) { return metadata_[i].key; });
  if (it == metadata_order_.end() || metadata_[*it].key != key) return nullptr;
  return &metadata_[*it].value;
}

const TensorInfo* Header::tensor(std::string_view name) const {
  const auto it = std::ranges::lower_bound(tensor_order_, name, {},
                                           [&](uint32_t i) { return tensors_[i].name; });
  if (it == tensor_order_.end() || tensors_[*it].name != name) return nullptr;
  return &tensors_[*it];
}

Result<uint64_t> Header::get_uint(std::string_view key) const {
  const Value* value = find(key);
  if (!value) return missing(key);
  const auto number = value->as_uint();
  if (!number) return wrong_kind(key, *value, "a non-negative integer");
  return *number;
}

Result<uint32_t> Header::get_u32(std::string_view key) const {
  TRY(const uint64_t number, get_uint(key));
  if (number > kMaxU32) {
    return fail(ErrorCode::kInvalidFormat,
                cat("metadata key '", printable(key), "' is ", number, ", which is out of range"));
  }
  return static_cast<uint32_t>(number);
}

Result<double> Header::get_float(std::string_view key) const {
  const Value* value = find(key);
  if (!value) return missing(key);
  const auto number = value->as_float();
  if (!number) return wrong_kind(key, *value, "a float");
  return *number;
}

Result<bool> Header::get_bool(std::string_view key) const {
  const Value* value = find(key);
  if (!value) return missing(key);
  const auto flag = value->as_bool();
  if (!flag) return wrong_kind(key, *value, "a bool");
  return *flag;
}

Result<std::string_view> Header::get_string(std::string_view key) const {
  const Value* value = find(key);
  if (!value) return missing(key);
  const auto text = value->as_string();
  if (!text) return wrong_kind(key, *value, "a string");
  return *text;
}

Result<ArrayView> Header::get_array(std::string_view key) const {
  const Value* value = find(key);
  if (!value) return missing(key);
  const auto array = value->as_array();
  if (!array) return wrong_kind(key, *value, "an array");
  return *array;
}

Result<uint64_t> Header::get_uint(std::string_view key, uint64_t absent) const {
  return find(key) ? get_uint(key) : absent;
}
Result<uint32_t> Header::get_u32(std::string_view key, uint32_t absent) const {
  return find(key) ? get_u32(key) : absent;
}
Result<double> Header::get_float(std::string_view key, double absent) const {
  return find(key) ? get_float(key) : absent;
}
Result<bool> Header::get_bool(std::string_view key, bool absent) const {
  return find(key) ? get_bool(key) : absent;
}
Result<std::string_view> Header::get_string(std::string_view key, std::string_view absent) const {
  return find(key) ? get_string(key) : absent;
}

Result<std::vector<uint32_t>> Header::get_u32_list(std::string_view key, size_t max_count) const {
  const Value* value = find(key);
  if (!value) return missing(key);
  const auto array = value->as_array();
  if (!array) {
    TRY(const uint32_t number, get_u32(key));
    return std::vector<uint32_t>{number};
  }
  if (array->size() > max_count) {
    return fail(ErrorCode::kInvalidFormat,
                cat("metadata key '", printable(key), "' has ", array->size(),
                    " elements; at most ", max_count, " make sense"));
  }
  std::vector<uint32_t> numbers(array->size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    const auto number = array->uint_at(i);
    if (!number || *number > kMaxU32) return wrong_kind(key, *value, "non-negative integers");
    numbers[i] = static_cast<uint32_t>(*number);
  }
  return numbers;
}

Result<std::vector<uint32_t>> Header::get_u32s(std::string_view key, size_t count) const {
  const Value* value = find(key);
  if (value && value->type() != ValueType::kArray) {
    TRY(const uint32_t number, get_u32(key));
    return std::vector<uint32_t>(count, number);
  }
  TRY(auto numbers, get_u32_list(key, count));
  if (numbers.size() != count) {
    return wrong_kind(key, *value, cat("an integer or an array of ", count, " integers"));
  }
  return numbers;
}

Result<std::vector<bool>> Header::get_bools(std::string_view key, size_t count) const {
  const Value* value = find(key);
  if (!value) return missing(key);
  if (const auto flag = value->as_bool()) return std::vector<bool>(count, *flag);
  const auto array = value->as_array();
  if (!array || array->element_type() != ValueType::kBool || array->size() != count) {
    return wrong_kind(key, *value, cat("a bool or an array of ", count, " bools"));
  }
  std::vector<bool> flags(count);
  for (size_t i = 0; i < count; ++i) flags[i] = *array->bool_at(i);
  return flags;
}

}  // namespace lapidary::gguf
