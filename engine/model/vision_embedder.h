// Pictures without a tower (gemma4.md §7.3): every patch of 48 by 48 pixels is normed, embedded and
// projected, and is a soft token.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "engine/gpu/device.h"
#include "engine/model/program.h"
#include "engine/model/tower.h"
#include "engine/model/vision_config.h"
#include "engine/vision/image_size.h"

namespace lapidary::model {

// The first `rows` rows of each axis' position table, side by side, into `target`.
Task<Status> upload_positions(const gpu::Device& device, const VisionConfig& config,
                              const VisionTensors& tensors, uint32_t source, uint32_t rows,
                              const gpu::Buffer& target);

class VisionEmbedder : public Tower {
 public:
  // As VisionTower::load, of a config without layers.
  static Task<Result<std::unique_ptr<VisionEmbedder>>> load(
      gpu::Device& device, const VisionConfig& config, const VisionTensors& tensors,
      uint32_t source, const kernels::Variant& variant, std::function<bool()> cancelled);

  // As VisionTower::encode.
  Task<Result<gpu::Buffer>> encode(std::span<const uint8_t> rgb, vision::ImageSize size);

 private:
  struct Scratch {
    uint32_t tokens = 0;  // that there is room for
    gpu::Buffer image, patches[2], x[2], soft;
  };

  VisionEmbedder(gpu::Device& device, const VisionConfig& config, const kernels::Variant& variant)
      : Tower(device, variant, "vision"), config_(config) {}
  Task<Status> load_weights(const VisionTensors& tensors, uint32_t source,
                            std::function<bool()> cancelled);
  Task<Status> prepare(uint32_t tokens);
  Status allocate(uint32_t tokens);
  void record();
  void record_norm(size_t index, const gpu::Buffer& out, const gpu::Buffer& in);

  VisionConfig config_;
  MatrixGroup embedding_, projector_;
  std::array<Site, kPatchNorms.size()> norms_;
  gpu::Buffer positions_, grid_, step_;
  uint32_t position_rows_ = 0;
  Scratch scratch_;
  Program program_;
};

}  // namespace lapidary::model
