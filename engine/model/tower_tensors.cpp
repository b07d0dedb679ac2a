#include "engine/model/tower_tensors.h"

#include <algorithm>

#include "engine/base/text.h"

namespace lapidary::model {

TowerTensors::TowerTensors(const gguf::Header& header, std::span<const std::string_view> prefixes) {
  for (const gguf::TensorInfo& tensor : header.tensors()) {
    const auto begins = [&](std::string_view prefix) { return tensor.name.starts_with(prefix); };
    if (!std::ranges::any_of(prefixes, begins)) continue;
    gguf::TensorInfo& kept = tensors_.emplace_back(tensor);
    kept.name = names_.emplace_back(tensor.name);
  }
  sort();
}

void TowerTensors::sort() { std::ranges::sort(tensors_, {}, &gguf::TensorInfo::name); }

const gguf::TensorInfo* TowerTensors::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(tensors_, name, {}, &gguf::TensorInfo::name);
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

Result<const gguf::TensorInfo*> TensorCheck::find(std::string_view name) const {
  const gguf::TensorInfo* tensor = tensors_.find(name);
  if (tensor != nullptr) return tensor;
  return fail(ErrorCode::kNotFound,
              cat("tensor ", name, " is missing: the ", tower_, " tower is incomplete"));
}

Status TensorCheck::has(std::string_view name, std::array<uint64_t, 4> dims, bool matrix) const {
  TRY(const gguf::TensorInfo* tensor, find(name));
  if (tensor->dims != dims) {
    return fail(ErrorCode::kInvalidFormat,
                cat("tensor ", name,
                    " has not the shape that the metadata ask for: the file is "
                    "damaged or of another model"));
  }
  const bool plain = tensor->type == gguf::TensorType::kF32 ||
                     tensor->type == gguf::TensorType::kF16 ||
                     tensor->type == gguf::TensorType::kBF16;
  if (plain || (matrix && gguf::tensor_type_info(tensor->type).decodable)) return {};
  return fail(ErrorCode::kUnsupported,
              cat("tensor ", name, " is of type ", gguf::tensor_type_info(tensor->type).name,
                  ", which the ", tower_, " tower cannot read"));
}

Result<uint32_t> bounded_u32(const gguf::Header& header, const std::string& key, uint32_t low,
                             uint32_t high) {
  TRY(const uint32_t value, header.get_u32(key));
  if (value >= low && value <= high) return value;
  return fail(ErrorCode::kInvalidFormat,
              cat(key, " is ", value, ", expected ", low, " to ", high, ": the file is damaged"));
}

Result<float> tower_eps(const gguf::Header& header, const std::string& key) {
  TRY(const double eps, header.get_float(key, 1e-6));
  if (eps >= 0 && eps <= 0.1) return static_cast<float>(eps);
  return fail(ErrorCode::kInvalidFormat, cat(key, " is out of its bounds: the file is damaged"));
}

}  // namespace lapidary::model
