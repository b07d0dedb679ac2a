// The vision tower on the GPU: a picture's pixels to rows for the text model's residual stream
// (gemma4.md §7.2, §7.3).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/matmul.h"
#include "engine/model/program.h"
#include "engine/model/vision_config.h"
#include "engine/model/vision_embedder.h"
#include "engine/model/weights.h"
#include "engine/vision/image_size.h"

namespace lapidary::model {

class VisionTower {
 public:
  // Streams the weights from byte source `source`. cancelled(): polled between pieces. Errors of
  // the source, kInvalidFormat for clip ranges that are none, kOutOfMemory.
  static Task<Result<std::unique_ptr<VisionTower>>> load(
      gpu::Device& device, const VisionConfig& config, const VisionTensors& tensors,
      uint32_t source, const kernels::Variant& variant, std::function<bool()> cancelled);

  // Soft tokens of a picture: f32 [vision::soft_tokens(size)][output]. rgb: 3 bytes a pixel, of a
  // size that vision::tower_size() gave. Not to be called again before it has ended. kUnsupported:
  // the tower's position tables do not reach so far; kOutOfMemory.
  Task<Result<gpu::Buffer>> encode(std::span<const uint8_t> rgb, vision::ImageSize size);

  // Of GPU memory.
  uint64_t bytes() const { return embedder_ ? embedder_->bytes() : weight_bytes_ + scratch_bytes_; }

 private:
  struct Linear {
    MatrixGroup weights;
    uint64_t clip = 0;  // bytes into clips_
  };
  struct Layer {
    std::array<Linear, kVisionLinears.size()> linears;
    Site before_attention, before_ffn, qk_norms;
  };
  struct Scratch {
    uint32_t patches = 0;  // that there is room for
    gpu::Buffer image, x[2], delta, h, q, k, v;
    gpu::Buffer wide[3];  // one after the other: patches; q, k, v as projected; attention; ffn
    gpu::Buffer pooled, soft;
  };

  VisionTower(gpu::Device& device, const VisionConfig& config, const kernels::Variant& variant)
      : device_(device), cache_(device), config_(config), variant_(variant) {}
  Task<Status> load_weights(const VisionTensors& tensors, uint32_t source,
                            std::function<bool()> cancelled);
  Task<Status> load_clips(const VisionTensors& tensors, uint32_t source);
  Result<gpu::Buffer> buffer(uint64_t bytes, std::string_view label, uint64_t& total);
  // Room for so many patches, and programs over it.
  Task<Status> prepare(uint32_t patches);
  Status allocate(uint32_t patches);
  void record();
  void record_layer(const Layer& layer, bool first, uint32_t& current, Program& program);
  void record_linear(Program& program, const Linear& linear, const gpu::Buffer& out,
                     const gpu::Buffer& in, const gpu::Buffer& step);
  void record_norm(Program& program, const Site& site, bool has_delta, uint32_t& current);
  gpu::Range vectors(const Site& site) const { return {vectors_, site.offset, site.bytes}; }

  gpu::Device& device_;
  kernels::KernelCache cache_;
  VisionConfig config_;
  kernels::Variant variant_;
  std::unique_ptr<VisionEmbedder> embedder_;  // does it all where there are no layers
  bool clips_any_ = false;

  MatrixGroup patch_embedding_;
  Linear projector_;
  std::vector<Layer> layers_;
  Site after_layers_, standard_;
  gpu::Buffer vectors_, clips_, positions_, rope_;
  uint32_t position_rows_ = 0;
  uint64_t weight_bytes_ = 0;
  uint64_t scratch_bytes_ = 0;

  Scratch scratch_;
  gpu::Buffer grid_, step_, soft_step_;
  Program inputs_, outputs_;
  std::vector<Program> layer_programs_;
};

}  // namespace lapidary::model
