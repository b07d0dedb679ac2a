// Runs the vision tower of a file on a picture, or its audio encoder on samples, and hands out the
// soft tokens (tests/model/vision.test.ts and raw-media.test.ts know what they should be).
#include <memory>
#include <vector>

#include "engine/base/text.h"
#include "engine/generate/text_model.h"
#include "engine/model/raw_audio.h"
#include "engine/model/vision_tower.h"
#include "tests/kernels/probe.h"

namespace lapidary::model {
namespace {

struct Picture {
  std::vector<uint8_t> rgb;
  vision::ImageSize size;
};

Task<Result<std::vector<float>>> encode(uint32_t source, uint32_t hidden, Picture picture,
                                        bool times) {
  gpu::Device device;
  CO_TRY(const gguf::Header header, co_await generate::read_header(source, nullptr));
  CO_TRY(const std::optional<VisionConfig> config, VisionConfig::from_gguf(header, hidden));
  if (!config) co_return fail(ErrorCode::kNotFound, "the file has no vision tower");
  const kernels::Variant variant = tower_variant(device);
  CO_TRY(const std::unique_ptr<VisionTower> tower,
         co_await VisionTower::load(device, *config, VisionTensors(header), source, variant,
                                    [] { return false; }));
  // Twice: what one picture leaves behind must not show in the next.
  if (times) {
    const std::vector<uint8_t> white(size_t{3} * 2 * picture.size.pixels(), 255);
    const vision::ImageSize taller{.width = picture.size.width, .height = 2 * picture.size.height};
    CO_TRY(const gpu::Buffer before, co_await tower->encode(white, taller));
  }
  CO_TRY(const gpu::Buffer rows, co_await tower->encode(picture.rgb, picture.size));
  std::vector<float> out(size_t{vision::soft_tokens(picture.size)} * hidden);
  CO_TRY_VOID(co_await device.read(rows, 0, std::as_writable_bytes(std::span(out))));
  co_return out;
}

// times: after other samples, twice as many.
Task<Result<std::vector<float>>> encode_audio(uint32_t source, uint32_t hidden,
                                              std::vector<float> samples, bool times) {
  gpu::Device device;
  CO_TRY(const gguf::Header header, co_await generate::read_header(source, nullptr));
  CO_TRY(const std::optional<RawAudioConfig> config, RawAudioConfig::from_gguf(header, hidden));
  if (!config) co_return fail(ErrorCode::kNotFound, "the file takes no raw audio");
  const kernels::Variant variant = tower_variant(device);
  CO_TRY(const std::unique_ptr<RawAudio> audio,
         co_await RawAudio::load(device, *config, source, variant, [] { return false; }));
  if (times) {
    const std::vector<float> loud(2 * samples.size(), 1.0f);
    CO_TRY(const gpu::Buffer before, co_await audio->encode(loud));
  }
  CO_TRY(const gpu::Buffer rows, co_await audio->encode(samples));
  std::vector<float> out(size_t{RawAudio::soft_tokens(samples.size())} * hidden);
  CO_TRY_VOID(co_await device.read(rows, 0, std::as_writable_bytes(std::span(out))));
  co_return out;
}

Task<void> answer(uint32_t call, uint32_t source, uint32_t hidden, Picture picture, bool times) {
  complete_call(call, co_await encode(source, hidden, std::move(picture), times));
}
Task<void> answer_audio(uint32_t call, uint32_t source, uint32_t hidden, std::vector<float> samples,
                        bool times) {
  complete_call(call, co_await encode_audio(source, hidden, std::move(samples), times));
}

}  // namespace
}  // namespace lapidary::model

// Completes with f32 [soft tokens, hidden] of an RGB picture. again: after another, taller one.
extern "C" __attribute__((export_name("vision_probe"))) void vision_probe(
    uint32_t call, uint32_t source, uint32_t hidden, const uint8_t* rgb, uint32_t bytes,
    uint32_t width, uint32_t height, uint32_t again) {
  lapidary::spawn(lapidary::model::answer(
      call, source, hidden, {{rgb, rgb + bytes}, {.width = width, .height = height}}, again != 0));
}

// Completes with f32 [soft tokens, hidden] of samples. again: after others, twice as many.
extern "C" __attribute__((export_name("raw_audio_probe"))) void raw_audio_probe(
    uint32_t call, uint32_t source, uint32_t hidden, const float* samples, uint32_t bytes,
    uint32_t again) {
  lapidary::spawn(lapidary::model::answer_audio(
      call, source, hidden, {samples, samples + bytes / sizeof(float)}, again != 0));
}
