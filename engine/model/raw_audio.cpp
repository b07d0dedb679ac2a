#include "engine/model/raw_audio.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/step.h"

namespace lapidary::model {
namespace {

constexpr std::string_view kProjector = "mm.a.input_projection.weight";
constexpr float kEps = 1e-6f;

}  // namespace

Result<std::optional<RawAudioConfig>> RawAudioConfig::from_gguf(const gguf::Header& header,
                                                                uint32_t hidden) {
  TRY(const bool audio, header.get_bool("clip.has_audio_encoder", false));
  TRY(const std::string_view type, header.get_string("clip.audio.projector_type", ""));
  if (!audio || type != "gemma4ua") return std::nullopt;
  const gguf::TensorInfo* tensor = header.tensor(kProjector);
  if (tensor == nullptr) {
    return fail(ErrorCode::kNotFound,
                cat("tensor ", kProjector, " is missing: the audio encoder is incomplete"));
  }
  if (tensor->dims != std::array<uint64_t, 4>{kRawAudioFrame, hidden, 1, 1}) {
    return fail(ErrorCode::kInvalidFormat,
                cat("tensor ", kProjector, " is not ", kRawAudioFrame, " by ", hidden,
                    ": the file is damaged or of another model"));
  }
  TRY_VOID(matrix_codec(*tensor, hidden, kRawAudioFrame));
  RawAudioConfig config{.output = hidden, .projector = *tensor};
  config.projector.name = kProjector;  // the header may go
  return config;
}

Task<Result<std::unique_ptr<RawAudio>>> RawAudio::load(gpu::Device& device,
                                                       const RawAudioConfig& config,
                                                       uint32_t source,
                                                       const kernels::Variant& variant,
                                                       std::function<bool()> cancelled) {
  std::unique_ptr<RawAudio> made(new RawAudio(device, config.output, variant));
  CO_TRY_VOID(co_await made->load_weights(config.projector, source, std::move(cancelled)));
  co_return std::move(made);
}

Task<Status> RawAudio::load_weights(const gguf::TensorInfo& tensor, uint32_t source,
                                    std::function<bool()> cancelled) {
  std::vector<MatrixJob> jobs;
  CO_TRY_VOID(plan_matrix(projector_, tensor, kRawAudioFrame, jobs, weight_bytes_));
  // The norm has no weights.
  const std::vector<float> ones(size_t{2} * kRawAudioFrame + 4, 1.0f);
  CO_TRY(ones_, buffer(ones.size() * sizeof(float), "norm", weight_bytes_));
  device_.write(ones_, 0, std::as_bytes(std::span(ones)));
  CO_TRY(step_, device_.create_buffer(sizeof(kernels::Step), gpu::kParamsUsage, "step"));
  co_return co_await upload_matrices(device_, cache_, source, std::move(jobs), nullptr,
                                     std::move(cancelled));
}

void RawAudio::record() {
  program_.clear();
  const kernels::ResidualNormSpec norm{kRawAudioFrame, /*has_delta=*/false, /*has_post=*/false,
                                       /*has_pre=*/true, kEps};
  program_.add(cache_, kernels::residual_norm_source(norm, variant_),
               std::vector<gpu::Range>{frames_, ones_, normed_, step_},
               [](uint32_t tokens) { return kernels::fold_groups(tokens); });
  record_matmul(program_, projector_, soft_, normed_, step_);
}

Task<Status> RawAudio::prepare(uint32_t tokens) {
  if (tokens <= room_) co_return Status{};
  room_ = 0;
  scratch_bytes_ = 0;
  for (gpu::Buffer* each : {&frames_, &normed_, &soft_}) *each = {};
  const uint64_t frames = uint64_t{tokens} * kRawAudioFrame * sizeof(float);
  CO_TRY(frames_, buffer(frames, "samples", scratch_bytes_));
  CO_TRY(normed_, buffer(frames, "samples", scratch_bytes_));
  CO_TRY(soft_, buffer(uint64_t{tokens} * output_ * sizeof(float), "soft tokens", scratch_bytes_));
  record();
  CO_TRY_VOID(co_await cache_.compile());
  CO_TRY_VOID(program_.bind(device_, cache_));
  room_ = tokens;
  co_return Status{};
}

Task<Result<gpu::Buffer>> RawAudio::encode(std::span<const float> samples) {
  if (samples.empty()) co_return fail(ErrorCode::kInvalidArgument, "the audio has no samples");
  if (!std::ranges::all_of(samples, [](float sample) { return std::isfinite(sample); }))
    co_return fail(ErrorCode::kInvalidArgument, "the audio has samples that are no numbers");
  const uint32_t tokens = soft_tokens(samples.size());
  CO_TRY_VOID(co_await prepare(tokens));
  const uint64_t bytes = uint64_t{tokens} * output_ * sizeof(float);
  CO_TRY(gpu::Buffer out, device_.create_buffer(bytes, gpu::kStorageUsage, "audio"));
  device_.write(frames_, 0, std::as_bytes(samples));
  const std::vector<float> zeros(size_t{tokens} * kRawAudioFrame - samples.size());
  if (!zeros.empty()) device_.write(frames_, samples.size_bytes(), std::as_bytes(std::span(zeros)));
  const kernels::Step step{.tokens = tokens};
  device_.write(step_, 0, std::as_bytes(std::span(&step, 1)));
  gpu::CommandList list;
  list.begin_pass();
  program_.record(list, cache_, tokens);
  list.end_pass();
  list.copy(soft_, 0, out, 0, bytes);
  device_.submit(list);
  CO_TRY_VOID(co_await device_.sync());
  co_return std::move(out);
}

}  // namespace lapidary::model
