// What encoders of pictures and sound share, with layers or without: weights in buffers of their
// own, linears with clip ranges, and their dispatches.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/matmul.h"
#include "engine/model/program.h"
#include "engine/model/tower_tensors.h"
#include "engine/model/weights.h"

namespace lapidary::model {

class Tower {
 public:
  virtual ~Tower() = default;
  virtual uint64_t bytes() const { return weight_bytes_ + scratch_bytes_; }  // of GPU memory

 protected:
  struct Linear {
    MatrixGroup weights;
    uint64_t clip = 0;  // bytes into clips_
  };
  // Clip ranges of linears: floats [linear][kClipFloats], of which the first four are the bounds of
  // the input and of the output. Bindings begin at multiples of 256 bytes.
  static constexpr uint64_t kClipBytes = 256;
  static constexpr size_t kClipFloats = kClipBytes / sizeof(float);

  // name: "vision"
  Tower(gpu::Device& device, const kernels::Variant& variant, std::string_view name)
      : device_(device), cache_(device), variant_(variant), name_(name) {}

  // kOutOfMemory where the adapter has no such binding; adds to `total`.
  Result<gpu::Buffer> buffer(uint64_t bytes, std::string_view label, uint64_t& total);
  // A group of one matrix, to be uploaded; `group` must not move any more. total: where its bytes
  // are added.
  Status plan_matrix(MatrixGroup& group, const gguf::TensorInfo& tensor, uint32_t cols,
                     std::vector<MatrixJob>& jobs, uint64_t& total);
  // Reads the ranges of linears from the scalars beside their weights ("NAME.input_min" …). What
  // has none is left as it is. clips_any_: whether there were any.
  Task<Result<std::vector<float>>> read_clips(const TowerTensors& tensors,
                                              std::span<const std::string> linears,
                                              uint32_t source);
  // kInvalidFormat for ranges that are none.
  Status upload_clips(std::vector<float> clips);

  void record_linear(Program& program, const Linear& linear, const gpu::Range& out,
                     const gpu::Range& in, const gpu::Buffer& step);
  // Without a clip range, whatever the others have.
  void record_matmul(Program& program, const MatrixGroup& weights, const gpu::Range& out,
                     const gpu::Range& in, const gpu::Buffer& step);
  gpu::Range vectors(const Site& site) const { return {vectors_, site.offset, site.bytes}; }

  gpu::Device& device_;
  kernels::KernelCache cache_;
  kernels::Variant variant_;
  std::string_view name_;
  bool clips_any_ = false;
  gpu::Buffer vectors_, clips_;
  uint64_t weight_bytes_ = 0;
  uint64_t scratch_bytes_ = 0;
};

// Room for `count` floats more, where a binding may begin. Returns where.
size_t reserve_floats(std::vector<float>& floats, Site& site, size_t count);

}  // namespace lapidary::model
