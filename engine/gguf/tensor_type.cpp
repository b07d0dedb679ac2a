#include "engine/gguf/tensor_type.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::gguf {

const TensorTypeInfo* tensor_type_info(uint32_t id) {
  for (const TensorTypeInfo& info : kTensorTypes) {
    if (static_cast<uint32_t>(info.type) == id) return &info;
  }
  return nullptr;
}

const TensorTypeInfo& tensor_type_info(TensorType type) {
  const TensorTypeInfo* info = tensor_type_info(static_cast<uint32_t>(type));
  return info ? *info : kTensorTypes[0];
}

std::string tensor_type_name(uint32_t id) {
  const TensorTypeInfo* info = tensor_type_info(id);
  return info ? std::string(info->name) : cat("type ", id);
}

Result<uint64_t> tensor_bytes(uint32_t id, uint64_t elements) {
  const TensorTypeInfo* info = tensor_type_info(id);
  if (!info) return fail(ErrorCode::kUnsupported, cat("unknown tensor type ", id));
  if (elements % info->block_elements != 0) {
    return fail(ErrorCode::kInvalidArgument, cat(elements, " elements are not a whole number of ",
                                                 info->name, " blocks of ", info->block_elements));
  }
  const auto bytes = checked_mul(elements / info->block_elements, info->block_bytes);
  if (!bytes) {
    return fail(ErrorCode::kInvalidArgument,
                cat("the size in bytes of ", elements, " elements of ", info->name, " overflows"));
  }
  return *bytes;
}

Result<uint64_t> tensor_bytes(TensorType type, uint64_t elements) {
  return tensor_bytes(static_cast<uint32_t>(type), elements);
}

}  // namespace lapidary::gguf
