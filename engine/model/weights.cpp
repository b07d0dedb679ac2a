#include "engine/model/weights.h"

#include <algorithm>
#include <memory>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/gguf/codec.h"
#include "engine/kernels/repack.h"
#include "engine/kernels/rope.h"
#include "engine/model/tensor_table.h"

namespace lapidary::model {
namespace {

using kernels::Codec;

// Bytes of a tensor that one piece brings to the GPU, and pieces that are on their way at once:
// while one is repacked the next ones are read.
constexpr uint64_t kPieceBytes = 16 << 20;
constexpr size_t kPiecesAtOnce = 4;

// Rows [row_begin, row_begin + rows) of a tensor, for bytes [offset, ...) of a buffer.
struct MatrixJob {
  const gguf::TensorInfo* tensor;
  Codec codec;
  uint32_t row_begin;
  uint32_t rows;
  const gpu::Buffer* target;
  uint64_t offset;
};

class Loader {
 public:
  Loader(gpu::Device& device, kernels::KernelCache& cache, const gguf::Header& header,
         const Config& config, uint32_t source)
      : device_(device), cache_(cache), header_(header), config_(config), source_(source) {}

  Status plan(TablePlace per_layer);
  Task<Status> load_vectors();
  Task<Status> load_rope(uint32_t context);
  Task<Status> load_matrices(const LoadProgress& progress, const std::function<bool()>& cancelled);

  Weights weights;

 private:
  struct VectorJob {
    const gguf::TensorInfo* tensor;
    size_t at;  // float index in vectors_
  };

  Result<const gguf::TensorInfo*> tensor(TensorRole role, int layer = 0) const;
  Status plan_group(MatrixGroup& group, std::initializer_list<TensorRole> roles, int layer,
                    std::string_view label);
  Status plan_table(Table& table, TensorRole role, std::string_view label);
  Status plan_source_table(std::optional<SourceTable>& table, TensorRole role);
  Status plan_layer(int layer);
  Status plan_site(Site& site, const TensorRole* post, int post_layer, const TensorRole* pre,
                   int pre_layer, const TensorRole* scale, int scale_layer);
  Status add_vector(TensorRole role, int layer, size_t at);
  size_t reserve_floats(Site& site, size_t count);
  Result<gpu::Buffer> buffer(uint64_t bytes, uint32_t usage, std::string_view label);

  gpu::Device& device_;
  kernels::KernelCache& cache_;
  const gguf::Header& header_;
  const Config& config_;
  uint32_t source_;
  std::vector<MatrixJob> matrices_;
  std::vector<VectorJob> vector_jobs_;
  std::vector<float> vectors_;
};

Result<const gguf::TensorInfo*> Loader::tensor(TensorRole role, int layer) const {
  const gguf::TensorInfo* info = find_tensor(header_, role, layer);
  if (info == nullptr)
    return fail(ErrorCode::kNotFound, cat("tensor '", tensor_name(role, layer), "' is missing"));
  return info;
}

Result<gpu::Buffer> Loader::buffer(uint64_t bytes, uint32_t usage, std::string_view label) {
  TRY(gpu::Buffer made, device_.create_buffer(bytes, usage, label));
  weights.bytes += made.size();
  return made;
}

Result<Codec> codec_of(const gguf::TensorInfo& info) {
  if (const auto codec = kernels::codec_for(info.type)) {
    TRY_VOID(kernels::check_matrix(*codec, info.rows(), info.dims[0]));
    return *codec;
  }
  return fail(ErrorCode::kUnsupported, cat("tensor '", info.name, "' has type ",
                                           gguf::tensor_type_name(static_cast<uint32_t>(info.type)),
                                           ", which has no GPU kernels yet"));
}

Status Loader::plan_group(MatrixGroup& group, std::initializer_list<TensorRole> roles, int layer,
                          std::string_view label) {
  uint64_t bytes = 0;
  std::vector<MatrixJob> jobs;
  for (const TensorRole role : roles) {
    TRY(const gguf::TensorInfo* info, tensor(role, layer));
    TRY(const Codec codec, codec_of(*info));
    const auto rows = static_cast<uint32_t>(info->rows());
    group.cols = static_cast<uint32_t>(info->dims[0]);
    group.segments.push_back({codec, rows, static_cast<uint32_t>(bytes)});
    jobs.push_back({info, codec, 0, rows, nullptr, bytes});
    bytes += kernels::packed_bytes(codec, rows, group.cols);
  }
  if (static_cast<double>(bytes) > device_.info().max_binding_size) {
    return fail(ErrorCode::kOutOfMemory,
                cat(label, " of layer ", layer, " needs a binding of ", bytes,
                    " bytes; this adapter allows ", device_.info().max_binding_size));
  }
  TRY(group.buffer, buffer(bytes, gpu::kStorageUsage, label));
  for (MatrixJob& job : jobs) {
    job.target = &group.buffer;
    matrices_.push_back(job);
  }
  return {};
}

Status Loader::plan_table(Table& table, TensorRole role, std::string_view label) {
  TRY(const gguf::TensorInfo* info, tensor(role));
  TRY(table.codec, codec_of(*info));
  table.rows = static_cast<uint32_t>(info->rows());
  table.cols = static_cast<uint32_t>(info->dims[0]);
  const double limit = std::min(device_.info().max_binding_size, device_.info().max_buffer_size);
  uint32_t part_rows = table.rows;
  while (static_cast<double>(kernels::packed_bytes(table.codec, part_rows, table.cols)) > limit) {
    if (part_rows == 1)
      return fail(ErrorCode::kOutOfMemory, cat("one row of ", label, " exceeds a binding"));
    part_rows = div_ceil(part_rows, 2);
  }
  table.parts.reserve(div_ceil(table.rows, part_rows));
  for (uint32_t begin = 0; begin < table.rows; begin += part_rows) {
    const uint32_t rows = std::min(part_rows, table.rows - begin);
    TRY(gpu::Buffer made,
        buffer(kernels::packed_bytes(table.codec, rows, table.cols), gpu::kStorageUsage, label));
    table.parts.push_back({std::move(made), begin, rows});
    matrices_.push_back({info, table.codec, begin, rows, &table.parts.back().buffer, 0});
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
  vector_jobs_.push_back({info, at});
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

Status Loader::plan(TablePlace per_layer) {
  if (config_.experts.count > 0) {
    return fail(ErrorCode::kUnsupported,
                "this model is a mixture of experts, which the GPU decoder cannot run yet");
  }
  TRY_VOID(plan_table(weights.token_embd, TensorRole::kTokenEmbd, "token embedding"));
  if (find_tensor(header_, TensorRole::kOutput) != nullptr) {
    TRY_VOID(plan_table(weights.output, TensorRole::kOutput, "output head"));
  }
  if (config_.per_layer_dim > 0) {
    if (per_layer == TablePlace::kSource) {
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
  // Sized once: the jobs point into it.
  weights.layers = std::vector<LayerWeights>(config_.layers.size());
  for (size_t l = 0; l < config_.layers.size(); ++l) TRY_VOID(plan_layer(static_cast<int>(l)));
  return {};
}

// All small reads are asked for at once: a remote source answers them side by side.
Task<Status> Loader::load_vectors() {
  struct Read {
    gpu::HostFuture future;
    std::vector<std::byte> bytes;
  };
  std::vector<std::unique_ptr<Read>> reads;
  for (const VectorJob& job : vector_jobs_) {
    auto read = std::make_unique<Read>();
    read->bytes.resize(static_cast<size_t>(job.tensor->bytes));
    gpu::host_source_read(source_, static_cast<double>(job.tensor->offset), read->bytes.data(),
                          static_cast<uint32_t>(read->bytes.size()), read->future.start());
    reads.push_back(std::move(read));
  }
  // Every read is awaited, also after a failure: the host still writes to its bytes.
  Status status;
  for (size_t i = 0; i < reads.size(); ++i) {
    const VectorJob& job = vector_jobs_[i];
    Status read = co_await reads[i]->future;
    if (read) {
      const auto count = static_cast<size_t>(job.tensor->elements());
      read = gguf::decode_block_row(job.tensor->type, reads[i]->bytes,
                                    std::span(vectors_).subspan(job.at, count));
    }
    if (!read && status) {
      status =
          fail(read.error().code, cat("tensor '", job.tensor->name, "': ", read.error().message));
    }
  }
  CO_TRY_VOID(std::move(status));
  CO_TRY(weights.vectors,
         buffer(vectors_.size() * sizeof(float), gpu::kStorageUsage, "norms and scales"));
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
    CO_TRY(target, buffer(table.size() * sizeof(float), gpu::kStorageUsage, "rotary table"));
    device_.write(target, 0, std::as_bytes(std::span(table)));
  }
  co_return Status{};
}

Task<Status> Loader::load_matrices(const LoadProgress& progress,
                                   const std::function<bool()>& cancelled) {
  // In the file's order, so that a disk or a server is read from front to back.
  std::ranges::sort(matrices_, {}, [](const MatrixJob& job) {
    return job.tensor->offset +
           job.row_begin *
               kernels::file_row_bytes(job.codec, static_cast<uint32_t>(job.tensor->dims[0]));
  });
  uint64_t total = 0;
  uint64_t staging_bytes = kPieceBytes;
  std::vector<uint32_t> slots;
  for (const MatrixJob& job : matrices_) {
    const auto cols = static_cast<uint32_t>(job.tensor->dims[0]);
    const uint64_t row_bytes = kernels::file_row_bytes(job.codec, cols);
    total += row_bytes * job.rows;
    staging_bytes = std::max(staging_bytes, row_bytes);
    slots.push_back(cache_.add(kernels::repack_source({job.codec, cols})));
  }
  CO_TRY_VOID(co_await cache_.compile());

  // A piece uses the staging buffer of the one kPiecesAtOnce before it: the queue keeps their
  // order, so it is enough that that one's repack was submitted before this one's copies are.
  struct Staging {
    gpu::Buffer buffer;
    gpu::HostFuture upload;
  };
  std::vector<Staging> stagings(kPiecesAtOnce);
  for (Staging& staging : stagings) {
    CO_TRY(staging.buffer,
           device_.create_buffer(staging_bytes + 16, gpu::kStorageUsage, "upload staging"));
  }
  CO_TRY(gpu::Buffer params, device_.create_buffer(sizeof(kernels::RepackParams), gpu::kParamsUsage,
                                                   "repack parameters"));
  struct Piece {
    size_t job;
    uint32_t row, rows;
    uint64_t bytes;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < matrices_.size(); ++i) {
    const MatrixJob& job = matrices_[i];
    const uint64_t row_bytes =
        kernels::file_row_bytes(job.codec, static_cast<uint32_t>(job.tensor->dims[0]));
    const auto most =
        static_cast<uint32_t>(std::min<uint64_t>(staging_bytes / row_bytes, job.rows));
    for (uint32_t row = 0; row < job.rows; row += most) {
      const uint32_t rows = std::min(most, job.rows - row);
      pieces.push_back({i, row, rows, rows * row_bytes});
    }
  }
  const auto start = [&](size_t p) {
    const Piece& piece = pieces[p];
    const MatrixJob& job = matrices_[piece.job];
    const uint64_t row_bytes = piece.bytes / piece.rows;
    const uint64_t offset = job.tensor->offset + (job.row_begin + piece.row) * row_bytes;
    Staging& staging = stagings[p % kPiecesAtOnce];
    gpu::host_source_upload(source_, static_cast<double>(offset), static_cast<double>(piece.bytes),
                            staging.buffer.id(), 0, staging.upload.start());
  };

  uint64_t loaded = 0;
  gpu::CommandList list;
  gpu::Bindings bindings;
  Status status;
  size_t started = 0;
  // After a failure what is under way is awaited all the same: the host still writes to its
  // buffers.
  for (size_t p = 0; p < pieces.size() && (status || p < started); ++p) {
    while (status && started < std::min(pieces.size(), p + kPiecesAtOnce)) start(started++);
    Staging& staging = stagings[p % kPiecesAtOnce];
    Status arrived = co_await staging.upload;
    if (status && !arrived) status = std::move(arrived);
    if (status && cancelled()) status = fail(ErrorCode::kCancelled, "loading was cancelled");
    if (!status) continue;
    const Piece& piece = pieces[p];
    const MatrixJob& job = matrices_[piece.job];
    const auto cols = static_cast<uint32_t>(job.tensor->dims[0]);
    const gpu::Kernel& kernel = cache_[slots[piece.job]];
    auto bound = device_.create_bindings(
        kernel, {staging.buffer,
                 {*job.target, job.offset, kernels::packed_bytes(job.codec, job.rows, cols)},
                 params});
    if (!bound) {
      status = std::unexpected(bound.error());
      continue;
    }
    bindings = std::move(*bound);
    const kernels::RepackParams repack{piece.row, piece.rows, job.rows, 0};
    device_.write(params, 0, std::as_bytes(std::span(&repack, 1)));
    const kernels::Groups groups = kernels::repack_groups({job.codec, cols}, piece.rows);
    list.reset();
    list.begin_pass();
    list.dispatch(kernel, bindings, groups.x, groups.y, groups.z);
    list.end_pass();
    device_.submit(list);
    loaded += piece.bytes;
    if (progress) progress(loaded, total);
  }
  CO_TRY_VOID(std::move(status));
  co_return co_await device_.sync();
}

}  // namespace

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
                                   uint32_t source, TablePlace per_layer, uint32_t context,
                                   LoadProgress progress, std::function<bool()> cancelled) {
  Loader loader(device, cache, header, config, source);
  CO_TRY_VOID(loader.plan(per_layer));
  // Buffers that the GPU has no memory for show now, not when all has been read for them.
  CO_TRY_VOID(co_await device.sync());
  CO_TRY_VOID(co_await loader.load_vectors());
  CO_TRY_VOID(co_await loader.load_rope(context));
  CO_TRY_VOID(co_await loader.load_matrices(progress, cancelled));
  co_return std::move(loader.weights);
}

}  // namespace lapidary::model
