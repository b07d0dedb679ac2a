// Experts that do not all fit on the GPU: a layer has slots for some of them, and those that a
// batch needs beside are read from the file first. Each layer has slots of its own: every token
// uses the same number of experts in each, files keep them in formats of their own, and what a
// layer's kernels bind never changes.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/model/expert_slots.h"
#include "engine/model/piece_upload.h"

namespace lapidary::model {

// A tensor of all experts of a layer, and where slots have their rows of it.
struct ExpertTensor {
  struct Part {
    const gpu::Buffer* target;
    uint64_t offset;
    uint32_t first;  // slot
    uint32_t count;
  };
  std::string name;
  uint64_t at;  // in the file
  kernels::Codec codec;
  uint32_t cols;
  uint32_t rows;  // of an expert
  std::vector<Part> parts;
  uint32_t kernel = 0;  // set by ExpertCache
};

class ExpertCache {
 public:
  // An expert that a token goes to, and the factor of its output (kernels/experts.h).
  struct Route {
    uint32_t expert, factor;
  };

  // layers: the tensors of each. The targets must live as long as the cache. Compiles the kernels.
  static Task<Result<std::unique_ptr<ExpertCache>>> create(
      gpu::Device& device, kernels::KernelCache& cache, uint32_t source, uint32_t experts,
      uint32_t slots, std::vector<std::vector<ExpertTensor>> layers);
  // GPU memory of the staging buffers.
  static uint64_t staging_bytes(std::span<const std::vector<ExpertTensor>> layers);

  uint32_t slots() const { return slots_; }
  // The experts of routes, each once, in rounds of as many as there are slots.
  std::vector<std::vector<uint32_t>> rounds(size_t layer, std::span<const Route> routes) const;
  // Brings the experts of a round to slots, behind what has been submitted. On a failure (of the
  // source, mostly), which names the tensor, what was not there still is not.
  Task<Status> load(size_t layer, std::span<const uint32_t> round);
  // After load(): the routes with slots for experts, slots() for those that are not in the round.
  std::vector<Route> placed(size_t layer, std::span<const uint32_t> round,
                            std::span<const Route> routes) const;

  // Experts that rounds needed: those that were there, those that were read.
  uint64_t hits() const { return hits_; }
  uint64_t misses() const { return misses_; }

 private:
  // While one is repacked the next ones are read.
  static constexpr size_t kPiecesAtOnce = 8;

  struct Piece {
    UploadPiece upload;
    uint32_t tensor, part;  // of the layer
  };
  // What bindings are made of: layer, tensor, part, staging buffer.
  using Bound = std::array<uint32_t, 4>;

  ExpertCache(gpu::Device& device, kernels::KernelCache& cache, uint32_t source, uint32_t slots,
              std::vector<std::vector<ExpertTensor>> layers)
      : upload_(device, cache, source, kPiecesAtOnce), layers_(std::move(layers)), slots_(slots) {}
  std::vector<Piece> pieces(size_t layer, std::span<const ExpertSlots::Placed> missing);

  PieceUpload upload_;
  std::vector<std::vector<ExpertTensor>> layers_;
  std::vector<ExpertSlots> kept_;  // by layer
  std::map<Bound, gpu::Bindings> bindings_;
  uint32_t slots_;
  uint64_t most_ = 0;  // bytes of a piece
  uint64_t hits_ = 0;
  uint64_t misses_ = 0;
};

}  // namespace lapidary::model
