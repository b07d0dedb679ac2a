// The safetensors container: a JSON header that names tensors, then their bytes without gaps.
// Everything in a file is checked before it is used, whoever wrote it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"

namespace lapidary::adapter {

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 16 << 20;
inline constexpr size_t kMaxSafetensorsTensors = 1 << 16;
inline constexpr size_t kMaxSafetensorsDims = 8;
inline constexpr size_t kMaxSafetensorsNameBytes = 1024;

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as written, always one that the format knows: "F32"
  std::vector<uint64_t> shape;
  Bytes data;  // a view into the file; its size is that of dtype and shape
};

struct Safetensors {
  std::vector<SafetensorsEntry> tensors;  // in the order of their bytes
  std::vector<std::pair<std::string, std::string>> metadata;

  // nullptr if there is none of that key.
  const std::string* find_metadata(std::string_view key) const;
};

// kTruncated: the file ends before what its header promises; kInvalidFormat: it breaks the format;
// kUnsupported: an unknown dtype, or over a limit above.
Result<Safetensors> parse_safetensors(Bytes file);

// The values of an F32, F16 or BF16 tensor; kUnsupported for other dtypes.
Result<std::vector<float>> to_floats(const SafetensorsEntry& tensor);

// An F32 tensor to write; `values` must live until the call returns.
struct SafetensorsOutput {
  std::string name;
  std::vector<uint64_t> shape;
  std::span<const float> values;
};
// The file, tensors and metadata in the order given: equal input gives equal bytes.
// kInvalidArgument if a shape does not fit its values, or a name is there twice.
Result<std::vector<std::byte>> write_safetensors(
    std::span<const SafetensorsOutput> tensors,
    std::span<const std::pair<std::string, std::string>> metadata);

}  // namespace lapidary::adapter
