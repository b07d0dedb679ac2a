// The tensors of a tower and the checks that they pass before any is read.
#pragma once

#include <array>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/gguf/header.h"

namespace lapidary::model {

// The entries of a tower's tensors, apart from their header, which may be large: the tower is
// loaded when it is first needed.
class TowerTensors {
 public:
  // Those whose names begin with one of `prefixes`.
  TowerTensors(const gguf::Header& header, std::span<const std::string_view> prefixes);
  // nullptr if absent.
  const gguf::TensorInfo* find(std::string_view name) const;

 protected:
  // Gives each tensor the name that rename(its name) returns.
  template <typename Rename>
  void rename_all(const Rename& rename) {
    for (gguf::TensorInfo& tensor : tensors_)
      tensor.name = names_.emplace_back(rename(tensor.name));
    sort();
  }

 private:
  void sort();
  std::deque<std::string> names_;
  std::vector<gguf::TensorInfo> tensors_;
};

// Errors name the tower ("audio") and the tensor. kNotFound: it is missing; kInvalidFormat: of
// another shape; kUnsupported: of a type that is not read.
class TensorCheck {
 public:
  TensorCheck(const TowerTensors& tensors, std::string_view tower)
      : tensors_(tensors), tower_(tower) {}

  // The tensor, of any shape.
  Result<const gguf::TensorInfo*> find(std::string_view name) const;
  // A tensor of these dimensions. matrix: of a type that kernels decode, else of plain floats.
  Status has(std::string_view name, std::array<uint64_t, 4> dims, bool matrix) const;
  Status vector(std::string_view name, uint64_t size) const {
    return has(name, {size, 1, 1, 1}, false);
  }

 private:
  const TowerTensors& tensors_;
  std::string_view tower_;
};

// The number under `key`. kInvalidFormat unless it is from `low` to `high`.
Result<uint32_t> bounded_u32(const gguf::Header& header, const std::string& key, uint32_t low,
                             uint32_t high);
// A norm's epsilon under `key`, or 1e-6.
Result<float> tower_eps(const gguf::Header& header, const std::string& key);

}  // namespace lapidary::model
