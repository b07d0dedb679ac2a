#include "engine/model/vision_embedder.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/kernels/step.h"
#include "engine/kernels/vision.h"

namespace lapidary::model {
namespace {

// Patches that a side of a picture has at most, by the largest token budget.
constexpr uint32_t kMostPositions = vision::kTokenBudgets.back();
// Rows of the position tables that are read at once.
constexpr uint32_t kPositionRows = 256;
// Index into kPatchNorms of the norm that follows the product, and adds its bias first.
constexpr size_t kAfterProduct = 1;

}  // namespace

Task<Status> upload_positions(const gpu::Device& device, const VisionConfig& config,
                              const VisionTensors& tensors, uint32_t source, uint32_t rows,
                              const gpu::Buffer& target) {
  const gguf::TensorInfo* positions = tensors.find("v.position_embd.weight");
  const uint64_t hidden = config.hidden;
  for (uint64_t row = 0; row < uint64_t{2} * rows;) {
    const uint64_t axis = row / rows;
    const uint64_t in_axis = row % rows;
    const uint64_t count = std::min<uint64_t>(kPositionRows, rows - in_axis);
    std::vector<float> piece(count * hidden);
    const VectorJob job{.tensor = positions,
                        .at = 0,
                        .first = (axis * config.positions + in_axis) * hidden,
                        .count = piece.size()};
    CO_TRY_VOID(co_await read_vectors(source, {&job, 1}, piece));
    device.write(target, row * hidden * sizeof(float), std::as_bytes(std::span(piece)));
    row += count;
  }
  co_return Status{};
}

Task<Result<std::unique_ptr<VisionEmbedder>>> VisionEmbedder::load(
    gpu::Device& device, const VisionConfig& config, const VisionTensors& tensors, uint32_t source,
    const kernels::Variant& variant, std::function<bool()> cancelled) {
  std::unique_ptr<VisionEmbedder> made(new VisionEmbedder(device, config, variant));
  CO_TRY_VOID(co_await made->load_weights(tensors, source, std::move(cancelled)));
  co_return std::move(made);
}

Task<Status> VisionEmbedder::load_weights(const VisionTensors& tensors, uint32_t source,
                                          std::function<bool()> cancelled) {
  std::vector<MatrixJob> matrices;
  CO_TRY_VOID(plan_matrix(embedding_, *tensors.find("v.patch_embd.weight"), kEmbedderValues,
                          matrices, weight_bytes_));
  CO_TRY_VOID(plan_matrix(projector_, *tensors.find("mm.input_projection.weight"), config_.hidden,
                          matrices, weight_bytes_));

  std::vector<float> floats;
  std::vector<VectorJob> vectors;
  for (size_t i = 0; i < norms_.size(); ++i) {
    const size_t cols = i == 0 ? kEmbedderValues : config_.hidden;
    const size_t at = reserve_floats(floats, norms_[i], (i == kAfterProduct ? 3 : 2) * cols);
    vectors.push_back({.tensor = tensors.find(cat(kPatchNorms[i], ".weight")), .at = at});
    vectors.push_back({.tensor = tensors.find(cat(kPatchNorms[i], ".bias")), .at = at + cols});
    if (i == kAfterProduct)
      vectors.push_back({.tensor = tensors.find("v.patch_embd.bias"), .at = at + 2 * cols});
  }
  position_rows_ = std::min(config_.positions, kMostPositions);
  const uint64_t axis_bytes = uint64_t{position_rows_} * config_.hidden * sizeof(float);
  CO_TRY(positions_, buffer(2 * axis_bytes, "position tables", weight_bytes_));
  CO_TRY(vectors_, buffer(floats.size() * sizeof(float), "norms", weight_bytes_));
  CO_TRY(grid_, device_.create_buffer(sizeof(kernels::Grid), gpu::kParamsUsage, "grid"));
  CO_TRY(step_, device_.create_buffer(sizeof(kernels::Step), gpu::kParamsUsage, "step"));
  CO_TRY_VOID(co_await read_vectors(source, vectors, floats));
  device_.write(vectors_, 0, std::as_bytes(std::span(floats)));
  CO_TRY_VOID(
      co_await upload_positions(device_, config_, tensors, source, position_rows_, positions_));
  co_return co_await upload_matrices(device_, cache_, source, std::move(matrices), nullptr,
                                     std::move(cancelled));
}

Status VisionEmbedder::allocate(uint32_t tokens) {
  scratch_ = {};
  scratch_bytes_ = 0;
  const uint64_t row = uint64_t{tokens} * sizeof(float);
  TRY(scratch_.image, buffer(uint64_t{tokens} * kEmbedderValues, "pixels", scratch_bytes_));
  for (gpu::Buffer& patches : scratch_.patches) {
    TRY(patches, buffer(row * kEmbedderValues, "patches", scratch_bytes_));
  }
  for (gpu::Buffer& x : scratch_.x) {
    TRY(x, buffer(row * config_.hidden, "activations", scratch_bytes_));
  }
  TRY(scratch_.soft, buffer(row * config_.output, "soft tokens", scratch_bytes_));
  scratch_.tokens = tokens;
  return {};
}

void VisionEmbedder::record_norm(size_t index, const gpu::Buffer& out, const gpu::Buffer& in) {
  const kernels::LayerNormSpec spec{.cols = index == 0 ? kEmbedderValues : config_.hidden,
                                    .adds_before = index == kAfterProduct,
                                    .rms_after = index + 1 == norms_.size()};
  program_.add(cache_, kernels::layer_norm_source(spec, variant_),
               std::vector<gpu::Range>{in, vectors(norms_[index]), out, step_},
               [](uint32_t tokens) { return kernels::fold_groups(tokens); });
}

void VisionEmbedder::record() {
  program_.clear();
  auto& [raw, normed] = scratch_.patches;
  auto& [a, b] = scratch_.x;
  program_.add(cache_, kernels::image_patches_source(vision::kTokenSide, false),
               std::vector<gpu::Range>{scratch_.image, raw, grid_, step_},
               [](uint32_t n) { return kernels::image_patches_groups(vision::kTokenSide, n); });
  record_norm(0, normed, raw);
  record_matmul(program_, embedding_, a, normed, step_);
  record_norm(1, b, a);
  program_.add(
      cache_, kernels::add_positions_source(config_.hidden, position_rows_),
      std::vector<gpu::Range>{b, positions_, a, grid_, step_},
      [cols = config_.hidden](uint32_t n) { return kernels::add_positions_groups(cols, n); });
  record_norm(2, b, a);
  record_matmul(program_, projector_, scratch_.soft, b, step_);
}

Task<Status> VisionEmbedder::prepare(uint32_t tokens) {
  if (tokens <= scratch_.tokens) co_return Status{};
  CO_TRY_VOID(allocate(tokens));
  record();
  CO_TRY_VOID(co_await cache_.compile());
  co_return program_.bind(device_, cache_);
}

Task<Result<gpu::Buffer>> VisionEmbedder::encode(std::span<const uint8_t> rgb,
                                                 vision::ImageSize size) {
  const kernels::Grid grid{.columns = size.width / vision::kTokenSide,
                           .rows = size.height / vision::kTokenSide};
  if (std::max(grid.columns, grid.rows) > position_rows_) {
    co_return fail(ErrorCode::kUnsupported,
                   cat("an image of ", grid.columns, " by ", grid.rows,
                       " patches is longer than this model reaches: ", position_rows_));
  }
  const uint32_t tokens = grid.columns * grid.rows;
  if (Status ready = co_await prepare(tokens); !ready) {
    scratch_ = {};
    co_return std::unexpected(std::move(ready).error());
  }
  const uint64_t bytes = uint64_t{tokens} * config_.output * sizeof(float);
  CO_TRY(gpu::Buffer out, device_.create_buffer(bytes, gpu::kStorageUsage, "image"));
  const kernels::Step step{.tokens = tokens};
  device_.write(scratch_.image, 0, std::as_bytes(rgb));
  device_.write(grid_, 0, std::as_bytes(std::span(&grid, 1)));
  device_.write(step_, 0, std::as_bytes(std::span(&step, 1)));
  gpu::CommandList list;
  list.begin_pass();
  program_.record(list, cache_, tokens);
  list.end_pass();
  list.copy(scratch_.soft, 0, out, 0, bytes);
  device_.submit(list);
  CO_TRY_VOID(co_await device_.sync());
  co_return std::move(out);
}

}  // namespace lapidary::model
