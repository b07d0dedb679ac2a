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
#include "engine/model/tower.h"
#include "engine/model/vision_config.h"
#include "engine/model/vision_embedder.h"
#include "engine/vision/image_size.h"

namespace lapidary::model {

class VisionTower : public Tower {
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

  uint64_t bytes() const override { return embedder_ ? embedder_->bytes() : Tower::bytes(); }

 private:
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
      : Tower(device, variant, "vision"), config_(config) {}
  Task<Status> load_weights(const VisionTensors& tensors, uint32_t source,
                            std::function<bool()> cancelled);
  Task<Status> load_clips(const VisionTensors& tensors, uint32_t source);
  // Room for so many patches, and programs over it.
  Task<Status> prepare(uint32_t patches);
  Status allocate(uint32_t patches);
  void record();
  void record_layer(const Layer& layer, bool first, uint32_t& current, Program& program);
  void record_norm(Program& program, const Site& site, bool has_delta, uint32_t& current);

  VisionConfig config_;
  std::unique_ptr<VisionEmbedder> embedder_;  // does it all where there are no layers

  MatrixGroup patch_embedding_;
  Linear projector_;
  std::vector<Layer> layers_;
  Site after_layers_, standard_;
  gpu::Buffer positions_, rope_;
  uint32_t position_rows_ = 0;

  Scratch scratch_;
  gpu::Buffer grid_, step_, soft_step_;
  Program inputs_, outputs_;
  std::vector<Program> layer_programs_;
};

}  // namespace lapidary::model
