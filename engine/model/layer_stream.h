// Matrices on their way from a file to the GPU, in pieces: read, copied into staging buffers,
// repacked to where kernels bind them. Once, when a model is loaded; or again and again, where
// layers that do not fit take turns in the same buffers.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/gguf/header.h"
#include "engine/gpu/device.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/layout.h"

namespace lapidary::model {

// Rows [row_begin, row_begin + rows) of a tensor that is a matrix of `cols` columns, for bytes
// [offset, ...) of a buffer.
struct MatrixJob {
  const gguf::TensorInfo* tensor;
  kernels::Codec codec;
  uint32_t cols;
  uint32_t row_begin;
  uint32_t rows;
  const gpu::Buffer* target;
  uint64_t offset;
};

class LayerStream {
 public:
  // jobs: of each layer. The targets must live as long as the stream, tensors only during the call.
  // Compiles the kernels.
  static Task<Result<std::unique_ptr<LayerStream>>> create(
      gpu::Device& device, kernels::KernelCache& cache, uint32_t source,
      std::vector<std::vector<MatrixJob>> jobs);
  // GPU memory of the staging buffers for such jobs.
  static uint64_t staging_bytes(std::span<const std::vector<MatrixJob>> jobs);

  // Called after each piece; a failure ends the load with it.
  using Arrived = std::function<Status(uint64_t bytes)>;
  // Brings a layer's matrices to their targets, behind what has been submitted. Reads go ahead into
  // the layers after it that are below `end` (at least layer + 1). After the last of them nothing
  // is under way. On a failure (of the source, mostly), which names the tensor, neither; what the
  // targets hold then is nobody's. What they hold already, of this very layer, is not read again.
  Task<Status> load(size_t layer, size_t end, Arrived arrived = nullptr);
  // Of the file, of all layers.
  uint64_t total_bytes() const { return total_bytes_; }
  // Of the file, read until now.
  uint64_t read_bytes() const { return read_bytes_; }

 private:
  // Pieces that are on their way at once: while one is repacked the next ones are read.
  static constexpr size_t kPiecesAtOnce = 4;
  static constexpr size_t kNone = SIZE_MAX;

  struct Job {
    std::string name;
    uint64_t at;  // in the file
    kernels::Codec codec;
    uint32_t cols;
    uint32_t rows;
    const gpu::Buffer* target;
    uint64_t offset;
    uint32_t slot;  // of the kernel
  };
  // Each has the staging buffer of the one kPiecesAtOnce before it: the queue keeps their order, so
  // it is enough that that one's repack was submitted before this one's copies are.
  struct Piece {
    uint32_t job;
    uint32_t row, rows;
    uint64_t bytes;
    gpu::Bindings bindings;
  };
  struct Staging {
    gpu::Buffer buffer;
    gpu::HostFuture upload;
  };

  LayerStream(gpu::Device& device, kernels::KernelCache& cache, uint32_t source)
      : device_(device), cache_(cache), source_(source) {}
  void start();
  Task<Status> take();
  Status repack(Piece& piece, const gpu::Buffer& staging);
  Task<void> drain();

  gpu::Device& device_;
  kernels::KernelCache& cache_;
  uint32_t source_;
  std::vector<Job> jobs_;
  std::vector<Piece> pieces_;
  std::vector<size_t> begins_;  // by layer: its first piece; and where the last one ends
  std::array<Staging, kPiecesAtOnce> stagings_;
  gpu::Buffer params_;
  gpu::CommandList list_;
  size_t next_ = 0;     // piece to arrive
  size_t started_ = 0;  // one past the last piece under way
  size_t held_ = kNone;
  uint64_t total_bytes_ = 0;
  uint64_t read_bytes_ = 0;
};

}  // namespace lapidary::model
