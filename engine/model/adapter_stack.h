// LoRA adapters on the GPU: each as it was loaded, and the stack of those in use, in which the
// changes of one product (kernels/low_rank.h) lie side by side.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/low_rank.h"
#include "engine/model/config.h"
#include "engine/model/tensor_table.h"
#include "engine/model/weights.h"

namespace lapidary::model {

// The change of one matrix: y = W x + scale B (A x). It fits the model.
struct AdapterMatrix {
  TensorRole role = TensorRole::kAttnQ;
  uint32_t layer = 0;  // 0 for kOutput, the head
  uint32_t rank = 0;
  uint32_t inputs = 0, outputs = 0;
  double scale = 1;
  std::span<const float> a;  // [rank, inputs], row-major
  std::span<const float> b;  // [outputs, rank], row-major
};

// The same on the GPU, in f32: A, its rows padded to whole units, and B transposed.
struct AdapterWeights {
  struct Matrix {
    AdapterMatrix shape;  // its spans are empty
    gpu::Buffer buffer;
    uint64_t a_bytes = 0;
    uint64_t b_bytes = 0;
  };
  std::vector<Matrix> matrices;
  uint64_t bytes = 0;

  const Matrix* find(TensorRole role, uint32_t layer) const;
};

// kOutOfMemory when the GPU has no room for it.
Task<Result<AdapterWeights>> upload_adapter(gpu::Device& device,
                                            std::span<const AdapterMatrix> matrices);

struct ActiveAdapter {
  std::shared_ptr<const AdapterWeights> weights;
  float scale = 1;  // times that of its matrices
};

// The products of a layer, and the head's.
enum class Product : uint8_t { kQkv, kOutput, kGateUp, kDown, kPleGate, kPleProj, kHead };
inline constexpr size_t kLayerProducts = 6;

class AdapterStack {
 public:
  struct Change {
    kernels::LowRank shape;
    gpu::Buffer buffer;

    gpu::Range a() const { return {buffer, 0, shape.factors()}; }
    gpu::Range b() const { return {buffer, shape.factors(), shape.bytes() - shape.factors()}; }
  };

  AdapterStack() = default;  // changes nothing
  // kInvalidArgument: more than kernels::kMaxLowRank ranks on one matrix; kOutOfMemory.
  static Task<Result<AdapterStack>> create(gpu::Device& device, const Config& config,
                                           const Weights& weights,
                                           std::span<const ActiveAdapter> active);

  // The change of a product; nullptr: there is none. layer: any for the head.
  const Change* find(size_t layer, Product product) const;
  bool changes(Product product) const;
  // The largest of all changes.
  uint32_t max_rank() const { return max_rank_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Status add(gpu::Device& device, gpu::CommandList& list, std::span<const ActiveAdapter> active,
             size_t layer, Product product, std::span<const TensorRole> roles,
             std::span<const kernels::Segment> segments, uint32_t cols);

  std::vector<std::array<std::unique_ptr<Change>, kLayerProducts>> layers_;
  std::unique_ptr<Change> head_;
  uint32_t max_rank_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace lapidary::model
