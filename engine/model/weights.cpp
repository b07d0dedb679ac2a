#include "engine/model/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/gguf/codec.h"
#include "engine/kernels/repack.h"
#include "engine/kernels/rope.h"
#include "engine/model/tensor_loader.h"
#include "engine/model/tensor_table.h"

namespace lapidary::model {
namespace {

using kernels::Codec;

class Loader {
 public:
  Loader(gpu::Device& device, const gguf::Header& header, const Config& config, uint32_t source)
      : device_(device), header_(header), config_(config), source_(source) {}

  // sizes: of layers' buffers, as `sizes` below leaves them, where some are streamed.
  Status plan(const WeightPlaces& places, std::span<const std::vector<uint64_t>> sizes = {});
  // Vectors and rotary tables, which plan() leaves out.
  void measure_rest(uint32_t context);
  Task<Status> load_vectors();
  Task<Status> load_rope(uint32_t context);
  Task<Status> load_matrices(kernels::KernelCache& cache, const LoadProgress& progress,
                             const std::function<bool()>& cancelled);
  uint64_t staging() const { return LayerStream::staging_bytes({&matrices_, 1}); }
  uint64_t layer_staging() const { return LayerStream::staging_bytes(streamed_); }
  uint64_t expert_staging() const { return ExpertCache::staging_bytes(experts_); }

  Weights weights;
  std::vector<std::vector<uint64_t>> sizes;  // of layers' buffers

 private:
  Result<const gguf::TensorInfo*> tensor(TensorRole role, int layer = 0) const;
  Status plan_group(MatrixGroup& group, std::initializer_list<TensorRole> roles, int layer,
                    std::string_view label);
  Status plan_group_parts(MatrixGroup& group, std::vector<MatrixJob> jobs, std::string_view label);
  double binding_limit() const {
    return std::min(device_.info().max_binding_size, device_.info().max_buffer_size);
  }
  Status plan_table(Table& table, TensorRole role, std::string_view label);
  Status plan_source_table(std::optional<SourceTable>& table, TensorRole role);
  Status plan_layer(int layer);
  Status plan_experts(int layer);
  Status plan_expert_matrices(ExpertMatrices& matrices, std::span<const TensorRole> roles,
                              int layer, uint32_t rows, std::string_view label);
  Status plan_site(Site& site, const TensorRole* post, int post_layer, const TensorRole* pre,
                   int pre_layer, const TensorRole* scale, int scale_layer);
  Status add_vector(TensorRole role, int layer, size_t at);
  size_t reserve_floats(Site& site, size_t count);
  Result<gpu::Buffer> buffer(uint64_t bytes, uint64_t WeightBytes::* kind, std::string_view label);
  // Of the layer at hand: its own, or the one that layers share.
  Result<SharedBuffer> layer_buffer(uint64_t bytes, uint64_t WeightBytes::* kind,
                                    std::string_view label);
  // Where jobs of what is at hand go.
  std::vector<MatrixJob>& jobs() { return layer_ && streams_ ? streamed_.back() : matrices_; }

  gpu::Device& device_;
  const gguf::Header& header_;
  const Config& config_;
  uint32_t source_;
  std::vector<MatrixJob> matrices_;
  std::vector<std::vector<MatrixJob>> streamed_;  // of each layer that is
  bool layer_ = false;                            // a layer is at hand
  bool streams_ = false;                          // and it is streamed
  size_t next_shared_ = 0;                        // of its buffers
  uint32_t expert_slots_ = 0;
  std::vector<std::vector<ExpertTensor>> experts_;  // of each layer, where there are slots
  std::vector<uint64_t> shared_bytes_;
  std::vector<SharedBuffer> shared_;
  std::vector<VectorJob> vector_jobs_;
  std::vector<size_t> router_scales_;  // where in vectors_
  std::vector<float> vectors_;
};

Result<const gguf::TensorInfo*> Loader::tensor(TensorRole role, int layer) const {
  const gguf::TensorInfo* info = find_tensor(header_, role, layer);
  if (info == nullptr)
    return fail(ErrorCode::kNotFound, cat("tensor '", tensor_name(role, layer), "' is missing"));
  return info;
}

Result<gpu::Buffer> Loader::buffer(uint64_t bytes, uint64_t WeightBytes::* kind,
                                   std::string_view label) {
  TRY(gpu::Buffer made, device_.create_buffer(bytes, gpu::kStorageUsage, label));
  weights.bytes.*kind += made.size();
  return made;
}

Result<SharedBuffer> Loader::layer_buffer(uint64_t bytes, uint64_t WeightBytes::* kind,
                                          std::string_view label) {
  if (layer_) sizes.back().push_back(round_up(bytes, 16));
  if (!layer_ || !streams_) return buffer(bytes, kind, label);
  const size_t index = next_shared_++;
  if (index == shared_.size()) {
    TRY(gpu::Buffer made, buffer(shared_bytes_[index], kind, label));
    shared_.emplace_back(std::move(made));
  }
  return shared_[index];
}

Status Loader::plan_group(MatrixGroup& group, std::initializer_list<TensorRole> roles, int layer,
                          std::string_view label) {
  uint64_t bytes = 0;
  std::vector<MatrixJob> jobs;
  for (const TensorRole role : roles) {
    TRY(const gguf::TensorInfo* info, tensor(role, layer));
    TRY(const Codec codec, matrix_codec(*info, info->rows(), info->dims[0]));
    const auto rows = static_cast<uint32_t>(info->rows());
    group.cols = static_cast<uint32_t>(info->dims[0]);
    group.segments.push_back({codec, rows, static_cast<uint32_t>(bytes)});
    jobs.push_back({info, codec, group.cols, 0, rows, nullptr, bytes});
    bytes += kernels::packed_bytes(codec, rows, group.cols);
  }
  group.paired = roles.size() > 0 && *roles.begin() == TensorRole::kFfnGate;
  if (static_cast<double>(bytes) > binding_limit())
    return plan_group_parts(group, std::move(jobs), label);
  TRY(group.buffer, layer_buffer(bytes, &WeightBytes::dense, label));
  for (MatrixJob& job : jobs) {
    job.target = group.buffer.get();
    this->jobs().push_back(job);
  }
  return {};
}

// Parts of whole rows: of gate and up the same of both, of other groups' matrices one after
// another.
Status Loader::plan_group_parts(MatrixGroup& group, std::vector<MatrixJob> jobs,
                                std::string_view label) {
  // Kernels take rows by so many at most.
  constexpr uint32_t kRows = 64;
  const std::span<MatrixJob> all(jobs);
  const size_t side_by_side = group.paired ? jobs.size() : 1;
  uint32_t row = 0;  // of y
  for (size_t first = 0; first < jobs.size(); first += side_by_side) {
    const std::span<MatrixJob> together = all.subspan(first, side_by_side);
    const uint32_t rows = together[0].rows;
    const auto bytes = [&](uint32_t count) {
      uint64_t sum = 0;
      for (const MatrixJob& job : together)
        sum += kernels::packed_bytes(job.codec, count, group.cols);
      return sum;
    };
    uint32_t each = rows;
    while (each > 1 && static_cast<double>(bytes(each)) > binding_limit()) each = div_ceil(each, 2);
    if (each < rows && each > kRows) each = each / kRows * kRows;
    if (static_cast<double>(bytes(each)) > binding_limit())
      return fail(ErrorCode::kOutOfMemory, cat("one row of ", label, " exceeds a binding"));
    for (uint32_t begin = 0; begin < rows; begin += each) {
      const uint32_t count = std::min(each, rows - begin);
      MatrixGroup::Part& part = group.parts.emplace_back();
      part.row = row + begin;
      TRY(part.buffer, layer_buffer(bytes(count), &WeightBytes::dense, label));
      uint64_t offset = 0;
      for (MatrixJob job : together) {
        part.segments.push_back({job.codec, count, static_cast<uint32_t>(offset)});
        job.row_begin = begin;
        job.rows = count;
        job.target = part.buffer.get();
        job.offset = offset;
        this->jobs().push_back(job);
        offset += kernels::packed_bytes(job.codec, count, group.cols);
      }
    }
    row += rows;
  }
  return {};
}

Status Loader::plan_table(Table& table, TensorRole role, std::string_view label) {
  TRY(const gguf::TensorInfo* info, tensor(role));
  TRY(table.codec, matrix_codec(*info, info->rows(), info->dims[0]));
  table.rows = static_cast<uint32_t>(info->rows());
  table.cols = static_cast<uint32_t>(info->dims[0]);
  const double limit = binding_limit();
  uint32_t part_rows = table.rows;
  while (static_cast<double>(kernels::packed_bytes(table.codec, part_rows, table.cols)) > limit) {
    if (part_rows == 1)
      return fail(ErrorCode::kOutOfMemory, cat("one row of ", label, " exceeds a binding"));
    part_rows = div_ceil(part_rows, 2);
  }
  table.parts.reserve(div_ceil(table.rows, part_rows));
  for (uint32_t begin = 0; begin < table.rows; begin += part_rows) {
    const uint32_t rows = std::min(part_rows, table.rows - begin);
    TRY(gpu::Buffer made, buffer(kernels::packed_bytes(table.codec, rows, table.cols),
                                 role == TensorRole::kPerLayerTokenEmbd ? &WeightBytes::per_layer
                                                                        : &WeightBytes::tables,
                                 label));
    table.parts.push_back({std::move(made), begin, rows});
    matrices_.push_back(
        {info, table.codec, table.cols, begin, rows, &table.parts.back().buffer, 0});
  }
  return {};
}

Status Loader::plan_source_table(std::optional<SourceTable>& table, TensorRole role) {
  TRY(const gguf::TensorInfo* info, tensor(role));
  if (!gguf::tensor_type_info(info->type).decodable) {
    return fail(
        ErrorCode::kUnsupported,
        cat("tensor '", info->name, "' has type ",
            gguf::tensor_type_name(static_cast<uint32_t>(info->type)), ", which has no decoder"));
  }
  TRY(const uint64_t row_bytes, gguf::tensor_bytes(info->type, info->dims[0]));
  table = SourceTable{.source = source_,
                      .offset = info->offset,
                      .type = info->type,
                      .rows = static_cast<uint32_t>(info->rows()),
                      .cols = static_cast<uint32_t>(info->dims[0]),
                      .row_bytes = row_bytes};
  return {};
}

size_t Loader::reserve_floats(Site& site, size_t count) {
  const size_t at = round_up(vectors_.size(), 64);
  vectors_.resize(at + count, 0.0f);
  site.offset = at * sizeof(float);
  site.bytes = round_up(count, 4) * sizeof(float);
  return at;
}

Status Loader::add_vector(TensorRole role, int layer, size_t at) {
  TRY(const gguf::TensorInfo* info, tensor(role, layer));
  vector_jobs_.push_back({.tensor = info, .at = at});
  return {};
}

Status Loader::plan_site(Site& site, const TensorRole* post, int post_layer, const TensorRole* pre,
                         int pre_layer, const TensorRole* scale, int scale_layer) {
  const size_t hidden = config_.hidden;
  const size_t at = reserve_floats(site, 2 * hidden + 1);
  site.has_post = post != nullptr;
  site.has_pre = pre != nullptr;
  vectors_[at + 2 * hidden] = 1.0f;
  if (post != nullptr) TRY_VOID(add_vector(*post, post_layer, at));
  if (pre != nullptr) TRY_VOID(add_vector(*pre, pre_layer, at + hidden));
  if (scale != nullptr && find_tensor(header_, *scale, scale_layer) != nullptr) {
    TRY_VOID(add_vector(*scale, scale_layer, at + 2 * hidden));
  }
  return {};
}

Status Loader::plan_layer(int l) {
  const LayerConfig& layer = config_.layers[static_cast<size_t>(l)];
  LayerWeights& out = weights.layers[static_cast<size_t>(l)];
  const bool ple = config_.per_layer_dim > 0;
  if (layer.shares_kv) {
    TRY_VOID(plan_group(out.qkv, {TensorRole::kAttnQ}, l, "attention q"));
  } else if (layer.v_from_k) {
    TRY_VOID(plan_group(out.qkv, {TensorRole::kAttnQ, TensorRole::kAttnK}, l, "attention q, k"));
  } else {
    TRY_VOID(plan_group(out.qkv, {TensorRole::kAttnQ, TensorRole::kAttnK, TensorRole::kAttnV}, l,
                        "attention q, k, v"));
  }
  TRY_VOID(plan_group(out.output, {TensorRole::kAttnOutput}, l, "attention output"));
  TRY_VOID(plan_group(out.gate_up, {TensorRole::kFfnGate, TensorRole::kFfnUp}, l,
                      "feed-forward gate, up"));
  TRY_VOID(plan_group(out.down, {TensorRole::kFfnDown}, l, "feed-forward down"));
  if (config_.experts.count > 0) TRY_VOID(plan_experts(l));
  if (ple) {
    TRY_VOID(plan_group(out.ple_gate, {TensorRole::kInpGate}, l, "per-layer gate"));
    TRY_VOID(plan_group(out.ple_proj, {TensorRole::kProj}, l, "per-layer projection"));
  }

  const TensorRole last = ple ? TensorRole::kPostNorm : TensorRole::kPostFfwNorm;
  const TensorRole attn_norm = TensorRole::kAttnNorm,
                   post_attention = TensorRole::kPostAttentionNorm, ffn_norm = TensorRole::kFfnNorm,
                   post_ffw = TensorRole::kPostFfwNorm, scale = TensorRole::kLayerOutputScale,
                   output_norm = TensorRole::kOutputNorm;
  const bool first = l == 0;
  TRY_VOID(plan_site(out.before_attention, first ? nullptr : &last, l - 1, &attn_norm, l,
                     first ? nullptr : &scale, l - 1));
  TRY_VOID(plan_site(out.before_ffn, &post_attention, l, &ffn_norm, l, nullptr, 0));
  if (ple) TRY_VOID(plan_site(out.before_ple, &post_ffw, l, nullptr, 0, nullptr, 0));
  if (l + 1 == static_cast<int>(config_.layers.size())) {
    TRY_VOID(plan_site(weights.before_head, &last, l, &output_norm, 0, &scale, l));
  }
  const size_t at = reserve_floats(out.qk_norms, 2 * layer.head_dim);
  TRY_VOID(add_vector(TensorRole::kAttnQNorm, l, at));
  if (!layer.shares_kv) TRY_VOID(add_vector(TensorRole::kAttnKNorm, l, at + layer.head_dim));
  return {};
}

// roles: one matrix, or gate and up. rows: of an expert and role. Of one matrix with twice as many
// the first half is gate.
Status Loader::plan_expert_matrices(ExpertMatrices& matrices, std::span<const TensorRole> roles,
                                    int layer, uint32_t rows, std::string_view label) {
  // From here on slots are experts.
  const uint32_t experts = expert_slots_ > 0 ? expert_slots_ : config_.experts.count;
  std::vector<const gguf::TensorInfo*> tensors;
  std::vector<Codec> codecs;
  for (const TensorRole role : roles) {
    TRY(const gguf::TensorInfo* info, tensor(role, layer));
    TRY(const Codec codec, matrix_codec(*info, info->rows(), info->dims[0]));
    tensors.push_back(info);
    codecs.push_back(codec);
  }
  matrices.cols = static_cast<uint32_t>(tensors[0]->dims[0]);
  matrices.stride = static_cast<uint32_t>(tensors[0]->dims[1]);
  const auto bytes = [&](uint32_t count) {
    uint64_t sum = 0;
    for (const Codec codec : codecs)
      sum += kernels::packed_bytes(codec, count * matrices.stride, matrices.cols);
    return static_cast<double>(sum);
  };
  const double limit = binding_limit();
  uint32_t each = experts;
  while (bytes(each) > limit) {
    if (each == 1) {
      return fail(ErrorCode::kOutOfMemory,
                  cat(label, " of layer ", layer, ": one of them needs a binding of ", bytes(1),
                      " bytes; this adapter allows ", limit));
    }
    each = div_ceil(each, 2);
  }
  matrices.parts.reserve(div_ceil(experts, each));
  const size_t kept = expert_slots_ > 0 ? experts_.back().size() : 0;
  if (expert_slots_ > 0) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      experts_.back().push_back({.name = std::string(tensors[i]->name),
                                 .at = tensors[i]->offset,
                                 .codec = codecs[i],
                                 .cols = matrices.cols,
                                 .rows = matrices.stride,
                                 .parts = {}});
    }
  }
  for (uint32_t first = 0; first < experts; first += each) {
    ExpertMatrices::Part& part = matrices.parts.emplace_back();
    part.first = first;
    part.count = std::min(each, experts - first);
    const uint32_t all = part.count * matrices.stride;
    TRY(part.buffer,
        layer_buffer(static_cast<uint64_t>(bytes(part.count)), &WeightBytes::experts, label));
    uint64_t offset = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
      for (uint32_t row = 0; row < matrices.stride; row += rows) {
        part.segments.push_back({.codec = codecs[i],
                                 .rows = rows,
                                 .offset = static_cast<uint32_t>(offset),
                                 .matrix_rows = all,
                                 .first_row = row});
      }
      if (expert_slots_ > 0) {
        experts_.back()[kept + i].parts.push_back(
            {.target = part.buffer.get(), .offset = offset, .first = first, .count = part.count});
      } else {
        jobs().push_back({tensors[i], codecs[i], matrices.cols, first * matrices.stride, all,
                          part.buffer.get(), offset});
      }
      offset += kernels::packed_bytes(codecs[i], all, matrices.cols);
    }
  }
  return {};
}

Status Loader::plan_experts(int l) {
  ExpertWeights& out = weights.layers[static_cast<size_t>(l)].experts;
  const uint32_t ffn = config_.experts.ffn;
  TRY_VOID(plan_group(out.router, {TensorRole::kRouter}, l, "router"));
  constexpr TensorRole kFused[] = {TensorRole::kExpertsGateUp};
  constexpr TensorRole kSplit[] = {TensorRole::kExpertsGate, TensorRole::kExpertsUp};
  constexpr TensorRole kDown[] = {TensorRole::kExpertsDown};
  const bool fused = find_tensor(header_, TensorRole::kExpertsGateUp, l) != nullptr;
  TRY_VOID(plan_expert_matrices(out.gate_up, fused ? std::span<const TensorRole>(kFused) : kSplit,
                                l, ffn, "experts' gate, up"));
  TRY_VOID(plan_expert_matrices(out.down, kDown, l, config_.hidden, "experts' down"));

  const TensorRole input_norm = TensorRole::kPreFfwNorm2, scale = TensorRole::kRouterScale;
  TRY_VOID(plan_site(out.before, nullptr, 0, &input_norm, l, nullptr, 0));
  TRY_VOID(plan_site(out.before_router, nullptr, 0, &scale, l, nullptr, 0));
  router_scales_.push_back(out.before_router.offset / sizeof(float) + config_.hidden);
  const size_t after = reserve_floats(out.after, size_t{2} * config_.hidden);
  TRY_VOID(add_vector(TensorRole::kPostFfwNorm1, l, after));
  TRY_VOID(add_vector(TensorRole::kPostFfwNorm2, l, after + config_.hidden));
  const size_t scales = reserve_floats(out.scales, config_.experts.count);
  return add_vector(TensorRole::kExpertsDownScale, l, scales);
}

Status Loader::plan(const WeightPlaces& places, std::span<const std::vector<uint64_t>> known) {
  TRY_VOID(plan_table(weights.token_embd, TensorRole::kTokenEmbd, "token embedding"));
  if (find_tensor(header_, TensorRole::kOutput) != nullptr) {
    TRY_VOID(plan_table(weights.output, TensorRole::kOutput, "output head"));
  }
  if (config_.per_layer_dim > 0) {
    if (places.per_layer == TablePlace::kSource) {
      TRY_VOID(plan_source_table(weights.per_layer_source, TensorRole::kPerLayerTokenEmbd));
    } else {
      TRY_VOID(plan_table(weights.per_layer_token_embd, TensorRole::kPerLayerTokenEmbd,
                          "per-layer embedding"));
    }
    TRY_VOID(plan_group(weights.per_layer_model_proj, {TensorRole::kPerLayerModelProj}, 0,
                        "per-layer projection"));
    const size_t at = reserve_floats(weights.per_layer_proj_norm, config_.per_layer_dim);
    TRY_VOID(add_vector(TensorRole::kPerLayerProjNorm, 0, at));
  }
  const size_t layers = config_.layers.size();
  weights.layers = std::vector<LayerWeights>(layers);
  weights.resident = static_cast<uint32_t>(std::min<uint64_t>(places.resident, layers));
  for (size_t l = weights.resident; l < known.size(); ++l) {
    shared_bytes_.resize(std::max(shared_bytes_.size(), known[l].size()));
    for (size_t i = 0; i < known[l].size(); ++i)
      shared_bytes_[i] = std::max(shared_bytes_[i], known[l][i]);
  }
  layer_ = true;
  expert_slots_ = places.expert_slots;
  for (size_t l = 0; l < layers; ++l) {
    if (expert_slots_ > 0) experts_.emplace_back();
    streams_ = l >= weights.resident;
    if (streams_) streamed_.emplace_back();
    next_shared_ = 0;
    sizes.emplace_back();
    TRY_VOID(plan_layer(static_cast<int>(l)));
  }
  layer_ = false;
  return {};
}

void Loader::measure_rest(uint32_t context) {
  weights.bytes.vectors += vectors_.size() * sizeof(float);
  for (const bool sliding : {true, false}) {
    const auto layer = std::ranges::find(config_.layers, sliding, &LayerConfig::sliding);
    if (layer == config_.layers.end()) continue;
    // All pairs turn unless factors say otherwise, which lie in the file.
    const uint64_t rows = kernels::kRopeLow + div_ceil(context, kernels::kRopeLow);
    weights.bytes.vectors += rows * layer->head_dim * sizeof(float);
  }
}

Task<Status> Loader::load_matrices(kernels::KernelCache& cache, const LoadProgress& progress,
                                   const std::function<bool()>& cancelled) {
  CO_TRY_VOID(
      co_await upload_matrices(device_, cache, source_, std::move(matrices_), progress, cancelled));
  if (!experts_.empty()) {
    CO_TRY(weights.experts,
           co_await ExpertCache::create(device_, cache, source_, config_.experts.count,
                                        expert_slots_, std::move(experts_)));
  }
  if (streamed_.empty()) co_return Status{};
  CO_TRY(weights.stream,
         co_await LayerStream::create(device_, cache, source_, std::move(streamed_)));
  co_return Status{};
}

Task<Status> Loader::load_vectors() {
  CO_TRY_VOID(co_await read_vectors(source_, vector_jobs_, vectors_));
  const float factor = 1.0f / std::sqrt(static_cast<float>(config_.hidden));
  for (const size_t at : router_scales_) {
    for (float& scale : std::span(vectors_).subspan(at, config_.hidden)) scale *= factor;
  }
  CO_TRY(weights.vectors,
         buffer(vectors_.size() * sizeof(float), &WeightBytes::vectors, "norms and scales"));
  device_.write(weights.vectors, 0, std::as_bytes(std::span(vectors_)));
  vectors_ = {};
  co_return Status{};
}

Task<Status> Loader::load_rope(uint32_t context) {
  const auto find_layer = [&](bool sliding) -> const LayerConfig* {
    for (const LayerConfig& layer : config_.layers) {
      if (layer.sliding == sliding) return &layer;
    }
    return nullptr;
  };
  std::vector<float> factors;
  if (const gguf::TensorInfo* info = find_tensor(header_, TensorRole::kRopeFreqs)) {
    std::vector<std::byte> bytes(static_cast<size_t>(info->bytes));
    CO_TRY_VOID(co_await gpu::HostCall([&](uint32_t ticket) {
      gpu::host_source_read(source_, static_cast<double>(info->offset), bytes.data(),
                            static_cast<uint32_t>(bytes.size()), ticket);
    }));
    factors.resize(static_cast<size_t>(info->elements()));
    CO_TRY_VOID(gguf::decode_block_row(info->type, bytes, factors));
  }
  for (const bool sliding : {true, false}) {
    const LayerConfig* layer = find_layer(sliding);
    if (layer == nullptr) continue;
    // Only global layers divide their frequencies (gemma4.md §4.5).
    const std::span<const float> divisors =
        sliding ? std::span<const float>() : std::span<const float>(factors);
    const uint32_t pairs = kernels::rope_rotated_pairs(layer->head_dim, divisors);
    const std::vector<float> table =
        kernels::rope_table(layer->head_dim, pairs, config_.rope(*layer).theta, divisors, context);
    gpu::Buffer& target = sliding ? weights.rope_sliding : weights.rope_global;
    (sliding ? weights.rotated_sliding : weights.rotated_global) = pairs;
    CO_TRY(target, buffer(table.size() * sizeof(float), &WeightBytes::vectors, "rotary table"));
    device_.write(target, 0, std::as_bytes(std::span(table)));
  }
  co_return Status{};
}

}  // namespace

bool Weights::splits_groups() const {
  return std::ranges::any_of(layers, [](const LayerWeights& layer) {
    return std::ranges::any_of(std::array{&layer.qkv, &layer.output, &layer.gate_up, &layer.down,
                                          &layer.ple_gate, &layer.ple_proj},
                               [](const MatrixGroup* group) { return group->split(); });
  });
}

kernels::AttentionSpec attention_shape(const Config& config, const Weights& weights, size_t l) {
  const LayerConfig& layer = config.layers[l];
  return {.heads = config.heads,
          .kv_heads = layer.kv_heads,
          .head_dim = layer.head_dim,
          .window = layer.sliding ? config.window : 0,
          .rotated_pairs = layer.sliding ? weights.rotated_sliding : weights.rotated_global,
          .shares_kv = layer.shares_kv,
          .v_from_k = layer.v_from_k,
          .eps = config.rms_eps};
}

Task<Result<Weights>> load_weights(gpu::Device& device, kernels::KernelCache& cache,
                                   const gguf::Header& header, const Config& config,
                                   uint32_t source, WeightPlaces places, uint32_t context,
                                   LoadProgress progress, std::function<bool()> cancelled) {
  // Of the buffers that streamed layers share.
  std::vector<std::vector<uint64_t>> sizes;
  if (places.resident < config.layers.size()) {
    gpu::Device measuring(device.info());
    Loader whole(measuring, header, config, source);
    CO_TRY_VOID(whole.plan({.per_layer = places.per_layer}));
    sizes = std::move(whole.sizes);
  }
  Loader loader(device, header, config, source);
  CO_TRY_VOID(loader.plan(places, sizes));
  // Buffers that the GPU has no memory for show now, not when all has been read for them.
  CO_TRY_VOID(co_await device.sync());
  CO_TRY_VOID(co_await loader.load_vectors());
  CO_TRY_VOID(co_await loader.load_rope(context));
  CO_TRY_VOID(co_await loader.load_matrices(cache, progress, cancelled));
  co_return std::move(loader.weights);
}

Result<WeightShapes> measure_weights(gpu::Device& device, const gguf::Header& header,
                                     const Config& config, TablePlace per_layer, uint32_t context) {
  Loader whole(device, header, config, 0);
  TRY_VOID(whole.plan({.per_layer = per_layer}));
  whole.measure_rest(context);
  // What streaming needs of its own, as if every layer were streamed.
  Loader streams(device, header, config, 0);
  TRY_VOID(streams.plan({.per_layer = per_layer, .resident = 0}, whole.sizes));
  WeightShapes shapes{.weights = std::move(whole.weights),
                      .layers = std::move(whole.sizes),
                      .staging = whole.staging(),
                      .stream_staging = streams.layer_staging()};
  if (config.experts.count > 0) {
    Loader slots(device, header, config, 0);
    TRY_VOID(slots.plan({.per_layer = per_layer, .expert_slots = 1}));
    shapes.expert_slot = slots.weights.bytes.experts;
    shapes.expert_staging = slots.expert_staging();
  }
  return shapes;
}

}  // namespace lapidary::model
