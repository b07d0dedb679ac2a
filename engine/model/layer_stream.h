// Matrices on their way from a file to the GPU, in pieces: read, copied into staging buffers,
// repacked to where kernels bind them. Once, when a model is loaded; or again and again, where
// layers that do not fit take turns in the same buffers.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/gguf/header.h"
#include "engine/model/piece_upload.h"

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
  // While one is repacked the next ones are read.
  static constexpr size_t kPiecesAtOnce = 4;
  static constexpr size_t kNone = SIZE_MAX;

  struct Piece {
    UploadPiece upload;
    gpu::Bindings bindings;
  };

  LayerStream(gpu::Device& device, kernels::KernelCache& cache, uint32_t source)
      : upload_(device, cache, source, kPiecesAtOnce) {}
  void add(const MatrixJob& job, uint64_t most);
  Task<void> drain();

  PieceUpload upload_;
  std::deque<std::string> names_;  // of tensors; pieces point there
  std::vector<Piece> pieces_;
  std::vector<size_t> begins_;  // by layer: its first piece; and where the last one ends
  size_t next_ = 0;             // piece to arrive
  size_t started_ = 0;          // one past the last piece under way
  size_t held_ = kNone;
  uint64_t total_bytes_ = 0;
  uint64_t read_bytes_ = 0;
};

}  // namespace lapidary::model
