// What the kernels of one token need to make the changes of adapters by themselves
// (kernels/fused_change.h): made on the GPU from the stack of adapters and the model's matrices
// when adapters are set.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/fused_change.h"
#include "engine/model/adapter_stack.h"
#include "engine/model/config.h"
#include "engine/model/weights.h"

namespace lapidary::model {

class AdapterFusion {
 public:
  struct Fused {
    kernels::FusedChange shape;
    gpu::Buffer buffer;
  };

  AdapterFusion() = default;  // fuses nothing
  // Empty where the stack has none, or what the kernels cannot do: adapters of the per-layer
  // matrices, more than kernels::kMaxFusedRank ranks on a product, widths that are no multiple of
  // 32, a mixture of experts. `entry`: the layer that a token may enter from a batch, of which
  // entry() speaks. kOutOfMemory.
  static Task<Result<AdapterFusion>> create(gpu::Device& device, const Config& config,
                                            const Weights& weights, const kernels::Variant& variant,
                                            const AdapterStack& stack, size_t entry);

  bool empty() const { return layers_.empty(); }
  // What a product's kernel takes; nullptr: nothing. Of kQkv of layer 0 the parts are empty: its
  // input is no linear product's.
  const Fused* find(size_t layer, Product product) const {
    return empty() ? nullptr : layers_[layer][static_cast<size_t>(product)].get();
  }
  // V's and U's matrices by the residual update and the stream themselves, [2][rank][hidden] of
  // f32: of q, k and v of the entry layer, when no kernel of the layer before ran. rank 0: none.
  const gpu::Buffer& entry() const { return entry_; }
  uint32_t entry_rank() const { return entry_rank_; }
  uint64_t bytes() const { return bytes_; }

 private:
  friend class FusionBuilder;
  std::vector<std::array<std::unique_ptr<Fused>, kLayerProducts>> layers_;
  gpu::Buffer entry_;
  uint32_t entry_rank_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace lapidary::model
