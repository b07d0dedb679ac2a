// Adapters merged into a model's weights: what the merged GGUF file consists of, and its changed
// matrices row by row. Functions on bytes, without I/O (generate/merge.h reads and streams).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/adapter/adapter.h"
#include "engine/base/bytes.h"
#include "engine/gguf/header.h"

namespace lapidary::adapter {

struct ScaledAdapter {
  LoraAdapter adapter;
  float scale = 1;  // times the adapter's own
};

// What is added to a matrix: factor · B A.
struct MergeTerm {
  const LoraModule* module = nullptr;
  float factor = 0;
};

// A tensor of the merged file.
struct MergedTensor {
  const gguf::TensorInfo* base = nullptr;
  gguf::TensorType type = gguf::TensorType::kF32;  // that it is written in
  uint64_t offset = 0;                             // from the merged file's start
  uint64_t bytes = 0;
  std::vector<MergeTerm> terms;  // none: the base's bytes
};

class MergePlan {
 public:
  // type: of the changed matrices; nothing: each its own. Where a type cannot be written, or its
  // blocks do not divide the rows, writable_type() says which is. The file has the base's version,
  // metadata, alignment and tensors, in their order.
  // Errors: check() with the base; kUnsupported: a changed matrix cannot be decoded, or is an
  // output head that the base ties to its embedding; kInvalidFormat: a tensor has another shape
  // than its metadata says, or tensors overlap; kNotFound: a matrix is missing; kOutOfMemory: the
  // adapters have more than `most_values` values together.
  static Result<MergePlan> make(gguf::Header base, std::vector<ScaledAdapter> adapters,
                                std::optional<gguf::TensorType> type, uint64_t most_values);

  // The merged file up to its first tensor's data, padding included.
  Bytes header() const { return header_; }
  const std::vector<MergedTensor>& tensors() const { return tensors_; }  // in the file's order
  uint64_t file_size() const { return file_size_; }
  uint32_t alignment() const { return base_.alignment(); }

 private:
  MergePlan(gguf::Header base, std::vector<ScaledAdapter> adapters)
      : base_(std::move(base)), adapters_(std::move(adapters)) {}
  Status add_terms(const model::Config& config);
  Status place(std::optional<gguf::TensorType> type);
  void write_header();

  gguf::Header base_;
  std::vector<ScaledAdapter> adapters_;
  std::vector<MergedTensor> tensors_;
  std::vector<std::byte> header_;
  uint64_t file_size_ = 0;
};

// `wanted`, if gguf/encode.h can write it in rows of so many elements; else the smallest type that
// it can and that loses less.
gguf::TensorType writable_type(gguf::TensorType wanted, uint64_t row);

// How much of what was to be added is in the written weights. In a coarse type a change far below
// the distance of two neighbouring values is rounded away.
struct MergeMeasure {
  double change = 0;  // sum of squares of the change D that was to be made
  double kept = 0;    // sum of products of D with the change that was made
  double error = 0;   // sum of squares of written - (base + D)

  void operator+=(const MergeMeasure& other);
};

// Rows of a changed matrix from row `first` on, as they are written: decoded, the terms added in
// f32, encoded. base: whole rows. kInvalidFormat: the base holds values that are not finite;
// kUnsupported: sums that the type has no room for. Messages name the tensor.
Result<std::vector<std::byte>> merge_rows(const MergedTensor& tensor, uint64_t first, Bytes base,
                                          MergeMeasure& measure);

}  // namespace lapidary::adapter
