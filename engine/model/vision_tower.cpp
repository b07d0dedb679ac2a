#include "engine/model/vision_tower.h"

#include <algorithm>
#include <cmath>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/elementwise_back.h"
#include "engine/kernels/rope.h"
#include "engine/kernels/step.h"
#include "engine/kernels/vision.h"

namespace lapidary::model {
namespace {

constexpr double kTheta = 100;  // of both axes' rope
constexpr uint32_t kPatchValues = 3 * vision::kPatch * vision::kPatch;
// Patches that a side of a picture has at most, by the largest token budget.
constexpr uint32_t kMostPositions = vision::kTokenBudgets.back() * vision::kPooling;
}  // namespace

Task<Result<std::unique_ptr<VisionTower>>> VisionTower::load(
    gpu::Device& device, const VisionConfig& config, const VisionTensors& tensors, uint32_t source,
    const kernels::Variant& variant, std::function<bool()> cancelled) {
  std::unique_ptr<VisionTower> tower(new VisionTower(device, config, variant));
  if (config.layers == 0) {
    CO_TRY(tower->embedder_, co_await VisionEmbedder::load(device, config, tensors, source, variant,
                                                           std::move(cancelled)));
    co_return std::move(tower);
  }
  CO_TRY_VOID(co_await tower->load_weights(tensors, source, std::move(cancelled)));
  co_return std::move(tower);
}

// The range of every linear, in the order of v.clamp_data: from that tensor, or from four scalars
// beside the weights. What has none is left as it is.
Task<Status> VisionTower::load_clips(const VisionTensors& tensors, uint32_t source) {
  std::vector<std::string> linears;
  for (uint32_t l = 0; l < config_.layers; ++l) {
    for (const std::string_view linear : kVisionLinears)
      linears.push_back(vision_tensor_name(l, linear, ""));
  }
  linears.emplace_back("mm.input_projection");
  CO_TRY(std::vector<float> clips, co_await read_clips(tensors, linears, source));
  if (const gguf::TensorInfo* packed = tensors.find("v.clamp_data"); packed != nullptr) {
    const size_t count = linears.size() * 4;
    if (packed->elements() != count || packed->dims[0] != count)
      co_return fail(ErrorCode::kInvalidFormat, cat("tensor v.clamp_data has ", packed->elements(),
                                                    " values, expected ", count));
    std::vector<float> values(count);
    const VectorJob job{.tensor = packed, .at = 0};
    CO_TRY_VOID(co_await read_vectors(source, {&job, 1}, values));
    for (size_t i = 0; i < count && !clips_any_; ++i)
      clips[i / 4 * kClipFloats + i % 4] = values[i];
    clips_any_ = true;
  }
  co_return upload_clips(std::move(clips));
}

Task<Status> VisionTower::load_weights(const VisionTensors& tensors, uint32_t source,
                                       std::function<bool()> cancelled) {
  std::vector<MatrixJob> matrices;
  const auto plan = [&](MatrixGroup& group, std::string_view name, uint32_t cols) {
    return plan_matrix(group, *tensors.find(name), cols, matrices, weight_bytes_);
  };
  std::vector<float> floats;
  std::vector<VectorJob> vectors;
  const auto add_vector = [&](std::string_view name, size_t at) {
    vectors.push_back({.tensor = tensors.find(name), .at = at});
  };
  const size_t hidden = config_.hidden;
  const auto plan_site = [&](Site& site, const std::string& post, const std::string& pre) {
    const size_t at = reserve_floats(floats, site, 2 * hidden + 1);
    site.has_post = !post.empty();
    site.has_pre = !pre.empty();
    floats[at + 2 * hidden] = 1.0f;
    if (site.has_post) add_vector(post, at);
    if (site.has_pre) add_vector(pre, at + hidden);
  };
  CO_TRY_VOID(plan(patch_embedding_, "v.patch_embd.weight", kPatchValues));
  CO_TRY_VOID(plan(projector_.weights, "mm.input_projection.weight", config_.hidden));
  layers_ = std::vector<Layer>(config_.layers);
  for (uint32_t l = 0; l < config_.layers; ++l) {
    Layer& layer = layers_[l];
    for (size_t i = 0; i < kVisionLinears.size(); ++i) {
      const bool down = kVisionLinears[i] == "ffn_down";
      CO_TRY_VOID(plan(layer.linears[i].weights, vision_tensor_name(l, kVisionLinears[i]),
                       down ? config_.ffn : config_.hidden));
      layer.linears[i].clip = (l * kVisionLinears.size() + i) * kClipBytes;
    }
    const std::string before = l == 0 ? "" : vision_tensor_name(l - 1, "ffn_post_norm");
    plan_site(layer.before_attention, before, vision_tensor_name(l, "ln1"));
    plan_site(layer.before_ffn, vision_tensor_name(l, "attn_post_norm"),
              vision_tensor_name(l, "ln2"));
    const size_t at = reserve_floats(floats, layer.qk_norms, size_t{2} * config_.head_dim());
    add_vector(vision_tensor_name(l, "attn_q_norm"), at);
    add_vector(vision_tensor_name(l, "attn_k_norm"), at + config_.head_dim());
  }
  projector_.clip = layers_.size() * kVisionLinears.size() * kClipBytes;
  plan_site(after_layers_, vision_tensor_name(config_.layers - 1, "ffn_post_norm"), "");
  if (config_.standardises) {
    const size_t at = reserve_floats(floats, standard_, 2 * hidden);
    add_vector("v.std_bias", at);
    add_vector("v.std_scale", at + hidden);
  }

  position_rows_ = std::min(config_.positions, kMostPositions);
  const uint64_t axis_bytes = uint64_t{position_rows_} * hidden * sizeof(float);
  CO_TRY(positions_, buffer(2 * axis_bytes, "position tables", weight_bytes_));
  CO_TRY(vectors_, buffer(floats.size() * sizeof(float), "norms", weight_bytes_));
  CO_TRY_VOID(co_await load_clips(tensors, source));
  CO_TRY_VOID(co_await read_vectors(source, vectors, floats));
  device_.write(vectors_, 0, std::as_bytes(std::span(floats)));
  CO_TRY_VOID(
      co_await upload_positions(device_, config_, tensors, source, position_rows_, positions_));
  const std::vector<float> turns = kernels::rope_table(
      config_.head_dim() / 2, config_.head_dim() / 4, kTheta, {}, position_rows_);
  CO_TRY(rope_, buffer(turns.size() * sizeof(float), "rotary table", weight_bytes_));
  device_.write(rope_, 0, std::as_bytes(std::span(turns)));
  for (const auto& [target, size] :
       {std::pair{&grid_, sizeof(kernels::Grid)}, std::pair{&step_, sizeof(kernels::Step)},
        std::pair{&soft_step_, sizeof(kernels::Step)}}) {
    CO_TRY(*target, device_.create_buffer(size, gpu::kParamsUsage, "vision parameters"));
  }
  co_return co_await upload_matrices(device_, cache_, source, std::move(matrices), nullptr,
                                     std::move(cancelled));
}

Status VisionTower::allocate(uint32_t patches) {
  scratch_ = {};
  scratch_bytes_ = 0;
  const uint64_t row = uint64_t{patches} * sizeof(float);
  const uint32_t soft = patches / (vision::kPooling * vision::kPooling);
  const uint64_t wide = std::max({config_.ffn, config_.hidden, kPatchValues});
  for (gpu::Buffer* narrow : {&scratch_.x[0], &scratch_.x[1], &scratch_.delta, &scratch_.h,
                              &scratch_.q, &scratch_.k, &scratch_.v}) {
    TRY(*narrow, buffer(row * config_.hidden, "activations", scratch_bytes_));
  }
  for (gpu::Buffer& each : scratch_.wide) {
    TRY(each, buffer(row * wide, "feed-forward activations", scratch_bytes_));
  }
  TRY(scratch_.image, buffer(uint64_t{patches} * kPatchValues, "pixels", scratch_bytes_));
  TRY(scratch_.pooled,
      buffer(uint64_t{soft} * config_.hidden * sizeof(float), "soft tokens", scratch_bytes_));
  TRY(scratch_.soft,
      buffer(uint64_t{soft} * config_.output * sizeof(float), "soft tokens", scratch_bytes_));
  scratch_.patches = patches;
  return {};
}

void VisionTower::record_norm(Program& program, const Site& site, bool has_delta,
                              uint32_t& current) {
  const kernels::ResidualNormSpec spec{config_.hidden, has_delta, site.has_post, site.has_pre,
                                       config_.rms_eps};
  std::vector<gpu::Range> ranges{scratch_.x[current]};
  if (has_delta) ranges.emplace_back(scratch_.delta);
  ranges.push_back(vectors(site));
  if (has_delta) {
    current ^= 1;
    ranges.emplace_back(scratch_.x[current]);
  }
  if (site.has_pre) ranges.emplace_back(scratch_.h);
  ranges.emplace_back(step_);
  program.add(cache_, kernels::residual_norm_source(spec, variant_), std::move(ranges),
              [](uint32_t tokens) { return kernels::fold_groups(tokens); });
}

void VisionTower::record_layer(const Layer& layer, bool first, uint32_t& current,
                               Program& program) {
  const auto& [q, k, v, out, gate, up, down] = layer.linears;
  auto& [a, b, c] = scratch_.wide;
  record_norm(program, layer.before_attention, !first, current);
  record_linear(program, q, a, scratch_.h, step_);
  record_linear(program, k, b, scratch_.h, step_);
  record_linear(program, v, c, scratch_.h, step_);
  const kernels::VisionAttentionSpec spec{
      .heads = config_.heads, .head_dim = config_.head_dim(), .eps = config_.rms_eps};
  program.add(cache_, kernels::vision_heads_source(spec, variant_),
              std::vector<gpu::Range>{a, b, c, vectors(layer.qk_norms), rope_, scratch_.q,
                                      scratch_.k, scratch_.v, grid_, step_},
              [spec](uint32_t tokens) { return kernels::vision_heads_groups(spec, tokens); });
  program.add(cache_, kernels::vision_attention_source(spec, variant_),
              std::vector<gpu::Range>{scratch_.q, scratch_.k, scratch_.v, a, step_},
              [spec](uint32_t tokens) { return kernels::vision_attention_groups(spec, tokens); });
  record_linear(program, out, scratch_.delta, a, step_);
  record_norm(program, layer.before_ffn, true, current);
  record_linear(program, gate, a, scratch_.h, step_);
  record_linear(program, up, b, scratch_.h, step_);
  const kernels::GateSpec gelu{.width = config_.ffn,
                               .z_stride = config_.ffn,
                               .mul_stride = config_.ffn,
                               .quick = config_.quick_gelu};
  program.add(cache_, kernels::gate_source(gelu), std::vector<gpu::Range>{a, b, c, step_},
              [gelu](uint32_t tokens) { return kernels::gate_groups(gelu, tokens); });
  record_linear(program, down, scratch_.delta, c, step_);
}

void VisionTower::record() {
  inputs_.clear();
  outputs_.clear();
  layer_programs_.clear();
  layer_programs_.resize(layers_.size());
  inputs_.add(cache_, kernels::image_patches_source(vision::kPatch),
              std::vector<gpu::Range>{scratch_.image, scratch_.wide[0], grid_, step_},
              [](uint32_t n) { return kernels::image_patches_groups(vision::kPatch, n); });
  record_matmul(inputs_, patch_embedding_, scratch_.delta, scratch_.wide[0], step_);
  inputs_.add(
      cache_, kernels::add_positions_source(config_.hidden, position_rows_),
      std::vector<gpu::Range>{scratch_.delta, positions_, scratch_.x[0], grid_, step_},
      [cols = config_.hidden](uint32_t n) { return kernels::add_positions_groups(cols, n); });
  uint32_t current = 0;
  for (size_t l = 0; l < layers_.size(); ++l)
    record_layer(layers_[l], l == 0, current, layer_programs_[l]);
  record_norm(layer_programs_.back(), after_layers_, true, current);
  const kernels::VisionPoolSpec pool{
      .cols = config_.hidden, .side = vision::kPooling, .standardises = config_.standardises};
  std::vector<gpu::Range> ranges{scratch_.x[current]};
  if (pool.standardises) ranges.push_back(vectors(standard_));
  ranges.insert(ranges.end(), {scratch_.pooled, grid_, soft_step_});
  outputs_.add(cache_, kernels::vision_pool_source(pool, variant_), std::move(ranges),
               [](uint32_t tokens) { return kernels::fold_groups(tokens); });
  record_linear(outputs_, projector_, scratch_.soft, scratch_.pooled, soft_step_);
}

Task<Status> VisionTower::prepare(uint32_t patches) {
  if (patches <= scratch_.patches) co_return Status{};
  CO_TRY_VOID(allocate(patches));
  record();
  CO_TRY_VOID(co_await cache_.compile());
  for (Program* program : {&inputs_, &outputs_}) CO_TRY_VOID(program->bind(device_, cache_));
  for (Program& program : layer_programs_) CO_TRY_VOID(program.bind(device_, cache_));
  co_return Status{};
}

Task<Result<gpu::Buffer>> VisionTower::encode(std::span<const uint8_t> rgb,
                                              vision::ImageSize size) {
  if (embedder_) co_return co_await embedder_->encode(rgb, size);
  const kernels::Grid grid{.columns = size.width / vision::kPatch,
                           .rows = size.height / vision::kPatch};
  if (std::max(grid.columns, grid.rows) > position_rows_) {
    co_return fail(
        ErrorCode::kUnsupported,
        cat("an image of ", grid.columns, " by ", grid.rows,
            " patches is longer than this model's vision tower reaches: ", position_rows_));
  }
  const uint32_t patches = grid.columns * grid.rows;
  const uint32_t soft = vision::soft_tokens(size);
  if (Status ready = co_await prepare(patches); !ready) {
    scratch_ = {};
    co_return std::unexpected(std::move(ready).error());
  }
  const uint64_t bytes = uint64_t{soft} * config_.output * sizeof(float);
  CO_TRY(gpu::Buffer out, device_.create_buffer(bytes, gpu::kStorageUsage, "image"));
  const auto write = [&](const gpu::Buffer& target, const auto& value) {
    device_.write(target, 0, std::as_bytes(std::span(&value, 1)));
  };
  device_.write(scratch_.image, 0, std::as_bytes(rgb));
  write(grid_, grid);
  write(step_, kernels::Step{.tokens = patches});
  write(soft_step_, kernels::Step{.tokens = soft});
  // A submission a layer: a slow GPU's driver takes one that runs for seconds for hung.
  gpu::CommandList list;
  const auto submit = [&](const Program& program, uint32_t tokens) {
    list.begin_pass();
    program.record(list, cache_, tokens);
    list.end_pass();
    device_.submit(list);
    list.reset();
  };
  submit(inputs_, patches);
  for (const Program& layer : layer_programs_) submit(layer, patches);
  submit(outputs_, soft);
  list.copy(scratch_.soft, 0, out, 0, bytes);
  device_.submit(list);
  CO_TRY_VOID(co_await device_.sync());
  co_return std::move(out);
}

}  // namespace lapidary::model
