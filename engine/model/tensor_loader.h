// Tensors of a file on their way to the GPU: vectors through the heap, matrices past it, repacked
// there.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "engine/gguf/header.h"
#include "engine/gpu/device.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/layout.h"
#include "engine/model/layer_stream.h"

namespace lapidary::model {

// progress(loaded, total): bytes of the file.
using LoadProgress = std::function<void(uint64_t, uint64_t)>;

// Values of a tensor: `count` from `first` on, or all of them (0).
struct VectorJob {
  const gguf::TensorInfo* tensor;
  size_t at;  // where they go
  uint64_t first = 0;
  uint64_t count = 0;
};

// The codec of a tensor that is read as a matrix. kUnsupported: the GPU has none;
// kInvalidArgument: kernels::check_matrix.
Result<kernels::Codec> matrix_codec(const gguf::TensorInfo& tensor, uint64_t rows, uint64_t cols);

// Reads all at once, which a remote source answers side by side. `out` must outlive the wait. A job
// with `first` or `count` is of a type without blocks (F32, F16, BF16).
Task<Status> read_vectors(uint32_t source, std::span<const VectorJob> jobs, std::span<float> out);

// Streams matrices in pieces. cancelled(): polled between them.
Task<Status> upload_matrices(gpu::Device& device, kernels::KernelCache& cache, uint32_t source,
                             std::vector<MatrixJob> jobs, LoadProgress progress,
                             std::function<bool()> cancelled);

}  // namespace lapidary::model
