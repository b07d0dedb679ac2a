#include "engine/model/tower.h"

#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::model {
namespace {

constexpr float kNoClip = 3.4e38f;
constexpr std::array<std::string_view, 4> kClipSuffixes = {".input_min", ".input_max",
                                                           ".output_min", ".output_max"};

}  // namespace

size_t reserve_floats(std::vector<float>& floats, Site& site, size_t count) {
  const size_t at = round_up(floats.size(), 64);
  floats.resize(at + count, 0.0f);
  site.offset = at * sizeof(float);
  site.bytes = round_up(count, 4) * sizeof(float);
  return at;
}

Result<gpu::Buffer> Tower::buffer(uint64_t bytes, std::string_view label, uint64_t& total) {
  if (static_cast<double>(bytes) > device_.info().max_binding_size) {
    return fail(ErrorCode::kOutOfMemory,
                cat(label, " of the ", name_, " encoder needs a binding of ", bytes,
                    " bytes; this adapter allows ", device_.info().max_binding_size,
                    ". Fewer tokens at once need less"));
  }
  TRY(gpu::Buffer made, device_.create_buffer(bytes, gpu::kStorageUsage, label));
  total += made.size();
  return made;
}

Status Tower::plan_matrix(MatrixGroup& group, const gguf::TensorInfo& tensor, uint32_t cols,
                          std::vector<MatrixJob>& jobs, uint64_t& total) {
  const auto rows = static_cast<uint32_t>(tensor.elements() / cols);
  TRY(const kernels::Codec codec, matrix_codec(tensor, rows, cols));
  group.cols = cols;
  group.segments = {{codec, rows, 0}};
  TRY(group.buffer, buffer(kernels::packed_bytes(codec, rows, cols), tensor.name, total));
  jobs.push_back({&tensor, codec, cols, 0, rows, group.buffer.get(), 0});
  return {};
}

Task<Result<std::vector<float>>> Tower::read_clips(const TowerTensors& tensors,
                                                   std::span<const std::string> linears,
                                                   uint32_t source) {
  std::vector<float> clips(linears.size() * kClipFloats);
  std::vector<VectorJob> jobs;
  for (size_t i = 0; i < linears.size(); ++i) {
    for (size_t k = 0; k < kClipSuffixes.size(); ++k) {
      clips[i * kClipFloats + k] = k % 2 == 0 ? -kNoClip : kNoClip;
      const gguf::TensorInfo* scalar = tensors.find(cat(linears[i], kClipSuffixes[k]));
      if (scalar == nullptr) continue;
      if (scalar->elements() != 1)
        co_return fail(ErrorCode::kInvalidFormat,
                       cat("tensor ", scalar->name, " is no single number"));
      jobs.push_back({.tensor = scalar, .at = i * kClipFloats + k});
    }
  }
  CO_TRY_VOID(co_await read_vectors(source, jobs, clips));
  clips_any_ = !jobs.empty();
  co_return std::move(clips);
}

Status Tower::upload_clips(std::vector<float> clips) {
  for (size_t i = 0; i < clips.size() / kClipFloats; ++i) {
    for (const size_t k : {0, 2}) {
      float& low = clips[i * kClipFloats + k];
      float& high = clips[i * kClipFloats + k + 1];
      if (!(low <= high))  // or one is not a number
        return fail(ErrorCode::kInvalidFormat,
                    cat("the clip range of the ", name_, " encoder's linear ", i, " is ", low,
                        " to ", high, ": the file is damaged"));
      low = std::max(low, -kNoClip);
      high = std::min(high, kNoClip);
    }
  }
  TRY(clips_, buffer(clips.size() * sizeof(float), "clip ranges", weight_bytes_));
  device_.write(clips_, 0, std::as_bytes(std::span(clips)));
  return {};
}

void Tower::record_linear(Program& program, const Linear& linear, const gpu::Range& out,
                          const gpu::Range& in, const gpu::Buffer& step) {
  if (!clips_any_) {
    record_matmul(program, linear.weights, out, in, step);
    return;
  }
  const kernels::MatmulSpec spec{.segments = linear.weights.segments,
                                 .cols = linear.weights.cols,
                                 .clip = true,
                                 .light = variant_.light};
  program.add(cache_, kernels::matmul_source(spec),
              {linear.weights.buffer, out, in, {clips_, linear.clip, 4 * sizeof(float)}, step},
              [spec](uint32_t tokens) { return kernels::matmul_groups(spec, tokens); });
}

void Tower::record_matmul(Program& program, const MatrixGroup& weights, const gpu::Range& out,
                          const gpu::Range& in, const gpu::Buffer& step) {
  const kernels::MatmulSpec spec{
      .segments = weights.segments, .cols = weights.cols, .light = variant_.light};
  program.add(cache_, kernels::matmul_source(spec), {weights.buffer, out, in, step},
              [spec](uint32_t tokens) { return kernels::matmul_groups(spec, tokens); });
}

}  // namespace lapidary::model
