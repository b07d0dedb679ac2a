#include "engine/gguf/writer.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/gguf/header_parser.h"

namespace lapidary::gguf {
namespace {

void put_bytes(std::vector<std::byte>& out, Bytes bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

template <typename T>
void put(std::vector<std::byte>& out, T value) {
  put_bytes(out, std::as_bytes(std::span(&value, 1)));
}

void put_string(std::vector<std::byte>& out, std::string_view text) {
  put(out, uint64_t{text.size()});
  put_bytes(out, std::as_bytes(std::span(text)));
}

// Why `names` cannot be the keys or the tensor names of a file, or "".
std::string name_fault(std::vector<std::string_view> names, std::string_view what,
                       size_t max_bytes) {
  for (const std::string_view name : names) {
    if (name.empty()) return cat("a ", what, " is empty");
    if (name.size() > max_bytes) {
      return cat(what, " '", printable(name), "' is longer than ", max_bytes, " bytes");
    }
  }
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  return twice == names.end() ? "" : cat(what, " '", printable(*twice), "' was added twice");
}

}  // namespace

Writer::Writer(uint32_t version, uint32_t alignment) : version_(version), alignment_(alignment) {
  if (alignment != kDefaultAlignment) add("general.alignment", alignment);
}

void Writer::begin_entry(std::string_view key, ValueType type) {
  keys_.emplace_back(key);
  put_string(metadata_, key);
  put(metadata_, static_cast<uint32_t>(type));
}

void Writer::add_value(std::string_view key, ValueType type, Bytes value) {
  begin_entry(key, type);
  put_bytes(metadata_, value);
}

void Writer::add_array_value(std::string_view key, ValueType element_type, size_t count,
                             Bytes elements) {
  begin_entry(key, ValueType::kArray);
  put(metadata_, static_cast<uint32_t>(element_type));
  put(metadata_, uint64_t{count});
  put_bytes(metadata_, elements);
}

void Writer::add(std::string_view key, std::string_view text) {
  begin_entry(key, ValueType::kString);
  put_string(metadata_, text);
}

void Writer::add_strings(std::string_view key, std::span<const std::string_view> values) {
  add_array_value(key, ValueType::kString, values.size(), {});
  for (const std::string_view value : values) put_string(metadata_, value);
}

void Writer::add(std::string_view key, const Value& value) {
  if (const auto array = value.as_array()) {
    add_array_value(key, array->element_type(), array->size(), array->data());
  } else if (const auto text = value.as_string()) {
    add(key, *text);
  } else {
    add_value(key, value.type(), value.data());
  }
}

void Writer::add_tensor(std::string_view name, std::span<const uint64_t> dims, TensorType type,
                        Bytes data) {
  tensors_.push_back({std::string(name), {dims.begin(), dims.end()}, type, data, {}});
}

void Writer::add_tensor(std::string_view name, std::span<const uint64_t> dims, TensorType type,
                        std::vector<std::byte>&& data) {
  add_tensor(name, dims, type, Bytes());
  Tensor& tensor = tensors_.back();
  tensor.owned = std::move(data);
  tensor.data = tensor.owned;  // stays valid when the Tensor moves
}

Status Writer::check() const {
  const auto bad = [](const std::string& message) {
    return fail(ErrorCode::kInvalidArgument, cat("GGUF writer: ", message));
  };
  if (version_ != 2 && version_ != 3) return bad(cat("version ", version_, " is not 2 or 3"));
  if (!std::has_single_bit(alignment_)) {
    return bad(cat("alignment ", alignment_, " is not a power of two"));
  }
  std::string fault = name_fault({keys_.begin(), keys_.end()}, "metadata key", kMaxKeyBytes);
  if (!fault.empty()) return bad(fault);
  std::vector<std::string_view> names;
  for (const Tensor& tensor : tensors_) names.push_back(tensor.name);
  fault = name_fault(std::move(names), "tensor name", kMaxTensorNameBytes);
  if (!fault.empty()) return bad(fault);
  for (const Tensor& tensor : tensors_) {
    if (tensor.dims.size() > 4) return bad(cat("tensor '", tensor.name, "' has over 4 dimensions"));
    uint64_t elements = 1;
    for (const uint64_t dim : tensor.dims) {
      const auto product = checked_mul(elements, dim);
      if (dim == 0 || !product)
        return bad(cat("tensor '", tensor.name, "' has unusable dimensions"));
      elements = *product;
    }
    const uint64_t row = tensor.dims.empty() ? 1 : tensor.dims[0];
    if (row % tensor_type_info(tensor.type).block_elements != 0) {
      return bad(
          cat("tensor '", tensor.name, "' has rows of ", row, " elements, not whole blocks"));
    }
    const auto bytes = tensor_bytes(tensor.type, elements);
    if (!bytes || *bytes != tensor.data.size()) {
      return bad(cat("tensor '", tensor.name, "' has ", tensor.data.size(), " bytes of data, not ",
                     bytes ? cat(*bytes) : bytes.error().message));
    }
  }
  return {};
}

Result<std::vector<std::byte>> Writer::finish() const {
  TRY_VOID(check());
  std::vector<std::byte> out;
  put_bytes(out, std::as_bytes(std::span(std::string_view("GGUF"))));
  put(out, version_);
  put(out, uint64_t{tensors_.size()});
  put(out, uint64_t{keys_.size()});
  put_bytes(out, metadata_);
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    put_string(out, tensor.name);
    put(out, static_cast<uint32_t>(tensor.dims.size()));
    for (const uint64_t dim : tensor.dims) put(out, dim);
    put(out, static_cast<uint32_t>(tensor.type));
    put(out, offset);
    offset = round_up(offset + tensor.data.size(), alignment_);
  }
  const uint64_t total = round_up(out.size(), alignment_) + offset;
  if (total > kMaxFileBytes) {
    return fail(ErrorCode::kInvalidArgument,
                cat("GGUF writer: a file of ", total, " bytes is too large to build in memory"));
  }
  out.reserve(static_cast<size_t>(total));
  const auto pad = [&] { out.resize(static_cast<size_t>(round_up(out.size(), alignment_))); };
  pad();
  for (const Tensor& tensor : tensors_) {
    put_bytes(out, tensor.data);
    pad();
  }
  return out;
}

}  // namespace lapidary::gguf
