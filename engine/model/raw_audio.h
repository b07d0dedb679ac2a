// Sound without a tower (gemma4.md §8.3): every frame of 640 samples is normed and projected, and
// is a soft token.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "engine/gguf/header.h"
#include "engine/gpu/device.h"
#include "engine/model/program.h"
#include "engine/model/tower.h"

namespace lapidary::model {

inline constexpr uint32_t kRawAudioFrame = 640;  // samples of 16 kHz, so 40 ms

// Where the projector of such a model is.
struct RawAudioConfig {
  uint32_t output = 0;  // width of the text model's residual stream
  gguf::TensorInfo projector;

  // Nothing where the file has no sound, or another encoder of it. hidden: the text model's.
  // kNotFound, kInvalidFormat, kUnsupported: the tensor, as VisionConfig's.
  static Result<std::optional<RawAudioConfig>> from_gguf(const gguf::Header& header,
                                                         uint32_t hidden);
};

class RawAudio : public Tower {
 public:
  // Streams the weights from byte source `source`. cancelled(): polled between pieces. Errors of
  // the source, kOutOfMemory.
  static Task<Result<std::unique_ptr<RawAudio>>> load(gpu::Device& device,
                                                      const RawAudioConfig& config, uint32_t source,
                                                      const kernels::Variant& variant,
                                                      std::function<bool()> cancelled);

  // Soft tokens of so many samples; the last frame is filled up with zeros.
  static uint32_t soft_tokens(size_t samples) {
    return static_cast<uint32_t>((samples + kRawAudioFrame - 1) / kRawAudioFrame);
  }
  // f32 [soft_tokens(samples)][output] of mono samples at 16 kHz, from -1 to 1. Not to be called
  // again before it has ended. kInvalidArgument: no samples, or one that is no finite number;
  // kOutOfMemory.
  Task<Result<gpu::Buffer>> encode(std::span<const float> samples);

 private:
  RawAudio(gpu::Device& device, uint32_t output, const kernels::Variant& variant)
      : Tower(device, variant, "audio"), output_(output) {}
  Task<Status> load_weights(const gguf::TensorInfo& tensor, uint32_t source,
                            std::function<bool()> cancelled);
  Task<Status> prepare(uint32_t tokens);
  void record();

  uint32_t output_;
  MatrixGroup projector_;
  gpu::Buffer ones_, step_;
  uint32_t room_ = 0;  // tokens
  gpu::Buffer frames_, normed_, soft_;
  Program program_;
};

}  // namespace lapidary::model
