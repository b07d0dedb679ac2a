// The LoRA matrices that a training run changes, with their gradients and moments, on the GPU.
#pragma once

#include <vector>

#include "engine/adapter/adapter.h"
#include "engine/gpu/device.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/optimizer.h"
#include "engine/model/program.h"

namespace lapidary::training {

// One adapted matrix of the model: y += scale B (A x).
struct Module {
  model::TensorRole role{};
  uint32_t layer = 0;
  uint32_t rank = 0, inputs = 0, outputs = 0;
  float scale = 1;
  // Where A [rank, inputs] and B [outputs, rank] lie in their pool, in floats.
  uint32_t pool = 0;
  uint64_t a = 0, b = 0;
  uint32_t a_size() const { return rank * inputs; }
  uint32_t b_size() const { return outputs * rank; }
};

class Parameters {
 public:
  // Where the matrices of a checked adapter will lie: modules() only, without memory.
  // kOutOfMemory: one matrix exceeds a binding's limit.
  static Result<Parameters> plan(const gpu::Device& device, const adapter::LoraAdapter& adapter);
  // The same with memory, and the adapter's values in it.
  static Result<Parameters> create(gpu::Device& device, const adapter::LoraAdapter& adapter);
  // Bytes on the GPU of all that create() would make.
  static uint64_t bytes_for(const adapter::LoraAdapter& adapter);

  const std::vector<Module>& modules() const { return modules_; }
  // The modules of a layer and role; layer 0 for the head.
  const Module* find(model::TensorRole role, uint32_t layer) const;
  uint64_t count() const;

  gpu::Range a(const Module& m) const { return range(pools_[m.pool].values, m.a, m.a_size()); }
  gpu::Range b(const Module& m) const { return range(pools_[m.pool].values, m.b, m.b_size()); }
  gpu::Range a_gradient(const Module& m) const {
    return range(pools_[m.pool].gradients, m.a, m.a_size());
  }
  gpu::Range b_gradient(const Module& m) const {
    return range(pools_[m.pool].gradients, m.b, m.b_size());
  }

  // The programs of a step: the global norm into result[1], then AdamW with `adam`.
  void record(kernels::KernelCache& cache, const kernels::Variant& variant,
              const gpu::Buffer& result, const gpu::Buffer& adam);
  Status bind(const gpu::Device& device, const kernels::KernelCache& cache);
  void append_step(gpu::CommandList& list, const kernels::KernelCache& cache) const;
  void append_clear(gpu::CommandList& list) const;

  // Everything of the optimiser's, pool after pool.
  enum class Part : uint8_t { kValues, kGradients, kMoments };
  Task<Result<std::vector<float>>> read(gpu::Device& device, Part part) const;
  // kInvalidArgument unless there are as many floats as read() gives.
  Status write(gpu::Device& device, Part part, std::span<const float> all);

  // The modules of `adapter`, the one that create() had, with these values; or the other way round.
  void store(std::span<const float> values, adapter::LoraAdapter& adapter) const;
  std::vector<float> gather(const adapter::LoraAdapter& adapter) const;

 private:
  struct Pool {
    uint32_t size = 0;  // floats
    gpu::Buffer values, gradients, moments;
  };
  static gpu::Range range(const gpu::Buffer& buffer, uint64_t first, uint64_t count) {
    return {buffer, first * sizeof(float), count * sizeof(float)};
  }
  const gpu::Buffer& buffer(const Pool& pool, Part part) const;
  void place(const adapter::LoraAdapter& adapter, uint64_t most);

  std::vector<Module> modules_;
  std::vector<Pool> pools_;
  gpu::Buffer partial_;
  model::Program norm_, step_;
};

}  // namespace lapidary::training
