// The way of a matrix's rows from a file to where kernels bind them: read, copied into a staging
// buffer, repacked.
#pragma once

#include <string_view>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/layout.h"

namespace lapidary::model {

// Rows of a file's matrix for rows [row, row + rows) of a matrix of `all_rows` rows on the GPU.
struct UploadPiece {
  std::string_view name;  // of the tensor
  uint64_t at = 0;        // in the file
  uint64_t bytes = 0;
  kernels::Codec codec = kernels::Codec::kF32;
  uint32_t cols = 0;
  uint32_t row = 0;
  uint32_t rows = 0;
  uint32_t all_rows = 0;
  const gpu::Buffer* target = nullptr;
  uint64_t offset = 0;  // of that matrix in it
  uint32_t kernel = 0;  // PieceUpload::kernel
};

// Several pieces are under way at once, numbered in their order: piece n has the staging buffer of
// piece n - at_once. The queue keeps their order, so it is enough that that one's repack was
// submitted before this one's copies are.
class PieceUpload {
 public:
  PieceUpload(gpu::Device& device, kernels::KernelCache& cache, uint32_t source, size_t at_once)
      : device_(device), cache_(cache), source_(source), stagings_(at_once) {}

  size_t at_once() const { return stagings_.size(); }
  static uint64_t bytes(size_t at_once, uint64_t piece) { return at_once * (piece + 16); }
  // The kernel of such pieces, compiled by allocate().
  uint32_t kernel(kernels::Codec codec, uint32_t cols);
  // most: bytes of a piece.
  Task<Status> allocate(uint64_t most);

  void start(size_t n, const UploadPiece& piece);
  // Waits for it and submits its repack. bindings: none, or those that an earlier piece with the
  // same target and n % at_once() left there. A failure names the tensor.
  Task<Status> take(size_t n, const UploadPiece& piece, gpu::Bindings& bindings);
  // Waits for one that nobody wants any more: the host still writes to its buffer.
  Task<void> drop(size_t n);

 private:
  struct Staging {
    gpu::Buffer buffer;
    gpu::HostFuture upload;
  };
  Status repack(const UploadPiece& piece, const gpu::Buffer& staging, gpu::Bindings& bindings);

  gpu::Device& device_;
  kernels::KernelCache& cache_;
  uint32_t source_;
  std::vector<Staging> stagings_;
  gpu::Buffer params_;
  gpu::CommandList list_;
};

}  // namespace lapidary::model
