// Runs the audio tower of a file on frames and hands out its soft tokens
// (tests/model/audio.test.ts knows what they should be).
#include <algorithm>
#include <memory>
#include <vector>

#include "engine/base/text.h"
#include "engine/generate/text_model.h"
#include "engine/model/audio_tower.h"
#include "tests/kernels/probe.h"

namespace lapidary::model {
namespace {

// All frames in pieces of `piece`.
Task<Status> encode_all(gpu::Device& device, AudioTower& tower, std::span<const float> frames,
                        uint32_t piece, uint32_t hidden, std::vector<float>& out) {
  AudioStream stream;
  const size_t step = size_t{piece} * audio::kMelBins;
  for (size_t at = 0; at < frames.size(); at += step) {
    const std::span some = frames.subspan(at, std::min(step, frames.size() - at));
    CO_TRY(const AudioRows rows,
           co_await tower.encode(stream, some, at + some.size() == frames.size()));
    if (rows.tokens == 0) continue;
    const size_t begin = out.size();
    out.resize(begin + size_t{rows.tokens} * hidden);
    CO_TRY_VOID(
        co_await device.read(rows.rows, 0, std::as_writable_bytes(std::span(out).subspan(begin))));
  }
  co_return Status{};
}

Task<Result<std::vector<float>>> encode(uint32_t source, uint32_t hidden, std::vector<float> frames,
                                        uint32_t piece, bool again) {
  gpu::Device device;
  CO_TRY(const gguf::Header header, co_await generate::read_header(source, nullptr));
  CO_TRY(const std::optional<AudioConfig> config, AudioConfig::from_gguf(header, hidden));
  if (!config) co_return fail(ErrorCode::kNotFound, "the file has no audio tower");
  const kernels::Variant variant = tower_variant(device);
  CO_TRY(const std::unique_ptr<AudioTower> tower,
         co_await AudioTower::load(device, *config, AudioTensors(header), source, variant,
                                   [] { return false; }));
  std::vector<float> out;
  // What one recording leaves behind must not show in the next.
  if (again) {
    const std::vector<float> loud(frames.size() * 2, 3.0f);
    CO_TRY_VOID(co_await encode_all(device, *tower, loud, 5, hidden, out));
    out.clear();
  }
  CO_TRY_VOID(co_await encode_all(device, *tower, frames, piece, hidden, out));
  co_return out;
}

Task<void> answer(uint32_t call, uint32_t source, uint32_t hidden, std::vector<float> frames,
                  uint32_t piece, bool again) {
  complete_call(call, co_await encode(source, hidden, std::move(frames), piece, again));
}

}  // namespace
}  // namespace lapidary::model

// Completes with f32 [soft tokens, hidden] of log-mel frames, given `piece` at a time. again: after
// another recording.
extern "C" __attribute__((export_name("audio_probe"))) void audio_probe(
    uint32_t call, uint32_t source, uint32_t hidden, const float* frames, uint32_t bytes,
    uint32_t piece, uint32_t again) {
  lapidary::spawn(lapidary::model::answer(
      call, source, hidden, {frames, frames + bytes / sizeof(float)}, piece, again != 0));
}
