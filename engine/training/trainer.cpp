#include "engine/training/trainer.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/step.h"

namespace lapidary::training {

using kernels::Step;
using model::LayerConfig;
using model::TensorRole;

namespace {

constexpr uint32_t kRounding = 64;  // so that every row block starts where a binding may

uint32_t rounded(uint32_t count) { return (count + kRounding - 1) / kRounding * kRounding; }

// The widest rows of some layers.
struct Sizes {
  uint32_t q_width = 0, kv_width = 0, ffn = 0, qkv_rows = 0;
  Sizes(const model::Config& config, std::span<const LayerConfig> layers) {
    for (const LayerConfig& layer : layers) {
      q_width = std::max(q_width, config.q_width(layer));
      kv_width = std::max(kv_width, layer.kv_width());
      ffn = std::max(ffn, layer.ffn);
      qkv_rows = std::max(qkv_rows, config.q_width(layer) + 2 * layer.kv_width());
    }
  }
};

}  // namespace

Trainer::Trainer(gpu::Device& device, kernels::KernelCache& cache, const model::Config& config,
                 const model::Weights& weights, TrainerOptions options)
    : device_(device), cache_(cache), config_(config), weights_(weights), options_(options) {
  options_.max_tokens = rounded(options_.max_tokens);
  options_.head_rows = std::min(rounded(options_.head_rows), options_.max_tokens);
  options_.head_chunk = std::min(rounded(options_.head_chunk), rounded(config.vocab));
}

Task<Result<std::unique_ptr<Trainer>>> Trainer::create(
    gpu::Device& device, kernels::KernelCache& cache, const model::Config& config,
    const model::Weights& weights, const adapter::LoraAdapter& adapter, TrainerOptions options) {
  if (config.experts.count > 0)
    co_return fail(ErrorCode::kUnsupported, "models with experts cannot be trained");
  std::unique_ptr<Trainer> self(new Trainer(device, cache, config, weights, options));
  CO_TRY_VOID(co_await self->allocate(adapter));
  self->record();
  device.write(self->gemms_, 0, self->gemm_slots_);
  self->parameters_.record(cache, self->options_.variant, self->result_, self->adam_);
  CO_TRY_VOID(co_await cache.compile());
  CO_TRY_VOID(self->parameters_.bind(device, cache));
  std::vector<model::Program*> programs = {&self->inputs_,       &self->head_begin_,
                                           &self->head_rows_,    &self->head_loss_,
                                           &self->head_scatter_, &self->head_end_};
  for (LayerPrograms& layer : self->layers_) {
    programs.push_back(&layer.forward);
    programs.push_back(&layer.back);
  }
  for (model::Program& program : self->head_forward_) programs.push_back(&program);
  for (model::Program& program : self->head_back_) programs.push_back(&program);
  for (model::Program* program : programs) CO_TRY_VOID(program->bind(device, cache));
  CO_TRY_VOID(co_await device.sync());
  co_return self;
}

Result<uint64_t> Trainer::estimate(gpu::Device& device, kernels::KernelCache& cache,
                                   const model::Config& config, const model::Weights& weights,
                                   const adapter::LoraAdapter& adapter, TrainerOptions options) {
  Trainer plan(device, cache, config, weights, options);
  plan.planning_ = true;
  TRY(plan.parameters_, Parameters::plan(device, adapter));
  plan.bytes_ = Parameters::bytes_for(adapter);
  TRY_VOID(plan.make_buffers());
  return plan.bytes_;
}

Task<Status> Trainer::try_allocate(gpu::Device& device, kernels::KernelCache& cache,
                                   const model::Config& config, const model::Weights& weights,
                                   const adapter::LoraAdapter& adapter, TrainerOptions options) {
  Trainer trial(device, cache, config, weights, options);
  co_return co_await trial.allocate(adapter);
}

// The GPU says at the sync whether it had the memory.
Task<Status> Trainer::allocate(const adapter::LoraAdapter& adapter) {
  CO_TRY(parameters_, Parameters::create(device_, adapter));
  bytes_ = Parameters::bytes_for(adapter);
  CO_TRY_VOID(make_buffers());
  co_return co_await device_.sync();
}

Result<gpu::Buffer> Trainer::floats(uint64_t rows, uint64_t width, std::string_view label) {
  const uint64_t bytes = std::max<uint64_t>(rows * width * sizeof(float), kSlot);
  return make_buffer(bytes, gpu::kStorageUsage, label);
}

// Of a size that a kernel can bind whole.
Result<gpu::Buffer> Trainer::make_buffer(uint64_t bytes, uint32_t usage, std::string_view label) {
  bytes_ += bytes;
  if (planning_) return gpu::Buffer();
  const double most = std::min<double>(device_.info().max_binding_size, UINT32_MAX);
  if (static_cast<double>(bytes) > most) {
    return fail(ErrorCode::kOutOfMemory, cat("training: '", label, "' needs ", bytes,
                                             " bytes; a kernel here can bind ", most));
  }
  return device_.create_buffer(bytes, usage, label);
}

bool Trainer::is_shared(size_t layer) const {
  return std::ranges::any_of(config_.layers, [&](const LayerConfig& other) {
    return other.shares_kv && other.kv_source == layer;
  });
}

// Of one of `layers`, whichever.
Status Trainer::allocate_activations(Activations& s, std::span<const LayerConfig> layers) {
  const Sizes sizes(config_, layers);
  const uint64_t t = options_.max_tokens;
  const uint64_t hidden = config_.hidden;
  const auto named = [&](gpu::Buffer& buffer, uint64_t width) -> Status {
    TRY(buffer, floats(t, width, "activations"));
    return {};
  };
  TRY_VOID(named(s.h1, hidden));
  TRY_VOID(named(s.qkv, sizes.qkv_rows));
  TRY_VOID(named(s.q, sizes.q_width));
  TRY_VOID(named(s.k, sizes.kv_width));
  TRY_VOID(named(s.v, sizes.kv_width));
  TRY_VOID(named(s.attention, sizes.q_width));
  TRY_VOID(named(s.stats, uint64_t{2} * config_.heads));
  TRY_VOID(named(s.d1, hidden));
  TRY_VOID(named(s.x1, hidden));
  TRY_VOID(named(s.h2, hidden));
  TRY_VOID(named(s.gate_up, uint64_t{2} * sizes.ffn));
  TRY_VOID(named(s.ffn, sizes.ffn));
  TRY_VOID(named(s.d2, hidden));
  if (config_.per_layer_dim > 0) {
    TRY_VOID(named(s.x2, hidden));
    TRY_VOID(named(s.z, config_.per_layer_dim));
    TRY_VOID(named(s.g, config_.per_layer_dim));
    TRY_VOID(named(s.d3, hidden));
  }
  std::vector<uint32_t> ranks(config_.layers.size());
  for (const Module& m : parameters_.modules())
    if (m.role != TensorRole::kOutput) ranks[m.layer] += m.rank;
  return named(s.p, *std::ranges::max_element(ranks));
}

Status Trainer::make_buffers() {
  const Sizes sizes(config_, config_.layers);
  const uint64_t t = options_.max_tokens;
  const uint64_t hidden = config_.hidden;
  const size_t layers = config_.layers.size();
  const auto words = [&](gpu::Buffer& buffer, uint64_t bytes, std::string_view label) -> Status {
    TRY(buffer, make_buffer(bytes, gpu::kParamsUsage, label));
    return {};
  };
  TRY_VOID(words(step_, sizeof(Step), "training step"));
  TRY_VOID(words(rows_step_, sizeof(Step), "step of supervised rows"));
  TRY_VOID(words(result_, 16, "loss and gradient norm"));
  TRY_VOID(words(adam_, sizeof(kernels::AdamParams), "optimiser"));
  TRY_VOID(words(seed_, 16, "dropout seed"));
  TRY_VOID(words(loss_params_, 16, "loss factor"));
  TRY(tokens_, floats(t, 1, "tokens"));
  TRY(spans_, floats(t, 2, "examples"));
  if (config_.per_layer_dim > 0) {
    const uint64_t width = layers * config_.per_layer_dim;
    TRY(ple_token_, floats(t, width, "per-layer embeddings"));
    TRY(ple_context_, floats(t, width, "per-layer context"));
    TRY(ple_, floats(t, width, "per-layer inputs"));
  }
  x_.resize(layers + 1);
  for (gpu::Buffer& x : x_) {
    TRY(x, floats(t, hidden, "inputs of layers"));
  }
  for (auto* list : {&k_, &v_, &dk_, &dv_}) {
    list->resize(layers);
    for (size_t l = 0; l < layers; ++l) {
      if (!is_shared(l)) continue;
      TRY((*list)[l], floats(t, config_.layers[l].kv_width(), "shared keys and values"));
    }
  }
  uint32_t layer = UINT32_MAX;
  uint32_t offset = 0;
  uint32_t inputs = 0;
  for (const Module& m : parameters_.modules()) {
    offset = m.layer == layer && m.role != TensorRole::kOutput ? offset : 0;
    layer = m.layer;
    p_offsets_.push_back(offset);
    offset += options_.max_tokens * m.rank;
    max_rank_ = std::max(max_rank_, m.rank);
    inputs = std::max(inputs, m.inputs);
  }
  activations_.resize(options_.checkpointing ? 1 : layers);
  for (size_t l = 0; l < activations_.size(); ++l) {
    const std::span<const LayerConfig> all(config_.layers);
    TRY_VOID(
        allocate_activations(activations_[l], options_.checkpointing ? all : all.subspan(l, 1)));
  }

  TRY(dk_own_, floats(t, sizes.kv_width, "gradient of keys"));
  TRY(dv_own_, floats(t, sizes.kv_width, "gradient of values"));
  TRY(dx_, floats(t, hidden, "gradient of the residual stream"));
  TRY(ddelta_, floats(t, hidden, "gradient of a residual update"));
  TRY(dh_, floats(t, hidden, "gradient of a norm's output"));
  TRY(dwide_, floats(t, std::max(2 * sizes.ffn, sizes.qkv_rows), "gradient of projections"));
  TRY(dffn_, floats(t, sizes.ffn, "gradient of the feed-forward activations"));
  TRY(dq_, floats(t, sizes.q_width, "gradient of queries"));
  TRY(dattention_, floats(t, sizes.q_width, "gradient of attention"));
  TRY(dk_part_, floats(t, sizes.q_width, "gradient of keys by head"));
  TRY(dv_part_, floats(t, sizes.q_width, "gradient of values by head"));
  TRY(dz_, floats(t, config_.per_layer_dim, "gradient of a per-layer gate"));
  TRY(dg_, floats(t, config_.per_layer_dim, "gradient of a gated input"));
  TRY(dp_, floats(t, max_rank_, "gradient of A x"));
  if (options_.dropout > 0) {
    TRY(dropped_, floats(t, inputs, "inputs after dropout"));
    TRY(ddropped_, floats(t, inputs, "gradient after dropout"));
  }
  TRY(final_h_, floats(t, hidden, "final hidden states"));
  TRY(dfinal_h_, floats(t, hidden, "gradient of final hidden states"));

  const uint64_t rows = options_.head_rows;
  TRY(rows_, floats(rows, 1, "supervised rows"));
  TRY(targets_, floats(rows, 1, "targets"));
  TRY(head_h_, floats(rows, hidden, "the head's input"));
  TRY(dhead_h_, floats(rows, hidden, "gradient of the head's input"));
  TRY(head_p_, floats(rows, max_rank_, "the head's A x"));
  TRY(dhead_p_, floats(rows, max_rank_, "gradient of the head's A x"));
  TRY(logits_, floats(rows, options_.head_chunk, "logits of a chunk"));
  TRY(state_, floats(rows, 4, "sums of exponentials"));
  for (uint32_t part = 0; part < weights_.head().parts.size(); ++part) {
    const model::Table::Part& p = weights_.head().parts[part];
    for (uint32_t row = 0; row < p.rows; row += options_.head_chunk) {
      chunks_.push_back(
          {part, row, std::min(options_.head_chunk, p.rows - row), p.row_begin + row});
    }
  }
  TRY_VOID(words(head_steps_, uint64_t{2} * chunks_.size() * kSlot, "steps of head chunks"));
  if (weights_.per_layer_source) {
    rows_source_ = std::make_unique<model::RowSource>(
        *weights_.per_layer_source, std::sqrt(static_cast<float>(config_.per_layer_dim)));
  }
  // A module has 6 products, the head's 3 a chunk and 3 more.
  TRY_VOID(words(gemms_, (6 * parameters_.modules().size() + 4 * chunks_.size() + 4) * kSlot,
                 "products of adapters"));
  layers_.resize(layers);
  return {};
}

gpu::Range Trainer::head_step(size_t chunk, bool absolute) const {
  return {head_steps_, (2 * chunk + (absolute ? 1 : 0)) * kSlot, sizeof(Step)};
}

Status Trainer::check(const MicroBatch& batch) const {
  const auto bad = [](const auto&... parts) {
    return fail(ErrorCode::kInvalidArgument, cat("training batch: ", parts...));
  };
  if (batch.tokens.empty() || batch.tokens.size() > options_.max_tokens)
    return bad(batch.tokens.size(), " tokens; 1 to ", options_.max_tokens, " are possible");
  if (batch.targets.size() != batch.tokens.size())
    return bad(batch.tokens.size(), " tokens need as many targets, not ", batch.targets.size());
  uint64_t total = 0;
  for (const uint32_t length : batch.lengths) {
    if (length == 0) return bad("an example without tokens");
    total += length;
  }
  if (total != batch.tokens.size())
    return bad("examples of ", total, " tokens in a batch of ", batch.tokens.size());
  for (const uint32_t id : batch.tokens)
    if (id >= config_.vocab) return bad("token ", id, " is outside the vocabulary");
  return {};
}

Task<Status> Trainer::write_inputs(const MicroBatch& batch) {
  const auto count = static_cast<uint32_t>(batch.tokens.size());
  std::vector<uint32_t> spans;
  uint32_t first = 0;
  for (const uint32_t length : batch.lengths) {
    for (uint32_t t = 0; t < length; ++t) spans.insert(spans.end(), {first, first + length});
    first += length;
  }
  const Step step{.position = 0, .tokens = count};
  device_.write(step_, 0, std::as_bytes(std::span(&step, 1)));
  device_.write(tokens_, 0, std::as_bytes(batch.tokens));
  device_.write(spans_, 0, std::as_bytes(std::span(spans)));
  if (rows_source_) CO_TRY_VOID(co_await rows_source_->gather(device_, batch.tokens, ple_token_));
  co_return Status{};
}

void Trainer::submit(const model::Program& program, uint32_t n) {
  if (program.size() == 0) return;
  list_.reset();
  list_.begin_pass();
  program.record(list_, cache_, n);
  list_.end_pass();
  device_.submit(list_);
}

Task<Status> Trainer::accumulate(MicroBatch batch, float factor, bool gradients, uint32_t seed) {
  CO_TRY_VOID(check(batch));
  std::vector<uint32_t> rows, targets;
  for (uint32_t t = 0; t < batch.tokens.size(); ++t) {
    if (batch.targets[t] >= config_.vocab) continue;
    rows.push_back(t);
    targets.push_back(batch.targets[t]);
  }
  if (rows.empty()) co_return Status{};
  const auto count = static_cast<uint32_t>(batch.tokens.size());
  CO_TRY_VOID(co_await write_inputs(batch));
  device_.write(seed_, 0, std::as_bytes(std::span(&seed, 1)));
  device_.write(loss_params_, 0, std::as_bytes(std::span(&factor, 1)));

  submit(inputs_, count);
  for (const LayerPrograms& layer : layers_) submit(layer.forward, count);
  submit(head_begin_, count);
  CO_TRY_VOID(co_await run_head(rows, targets, gradients));
  if (gradients) {
    submit(head_end_, count);
    for (size_t l = layers_.size(); l-- > 0;) {
      if (layers_[l].back.size() == 0) break;  // nothing below is trained
      if (options_.checkpointing && l + 1 < layers_.size()) submit(layers_[l].forward, count);
      submit(layers_[l].back, count);
    }
  }
  co_return co_await device_.sync();
}

Task<Status> Trainer::run_head(const std::vector<uint32_t>& rows,
                               const std::vector<uint32_t>& targets, bool gradients) {
  if (gradients) {
    list_.reset();
    list_.clear(dx_, 0, dx_.size());
    list_.clear(dfinal_h_, 0, dfinal_h_.size());
    device_.submit(list_);
  }
  for (size_t first = 0; first < rows.size(); first += options_.head_rows) {
    const auto n = static_cast<uint32_t>(std::min<size_t>(options_.head_rows, rows.size() - first));
    std::vector<uint32_t> steps(2 * chunks_.size() * kSlot / sizeof(uint32_t));
    for (size_t c = 0; c < chunks_.size(); ++c) {
      const HeadChunk& chunk = chunks_[c];
      const Step relative{.position = chunk.row, .tokens = n, .spans = chunk.words};
      const Step absolute{.position = chunk.first, .tokens = n, .spans = chunk.words};
      std::memcpy(&steps[2 * c * kSlot / 4], &relative, sizeof(Step));
      std::memcpy(&steps[(2 * c + 1) * kSlot / 4], &absolute, sizeof(Step));
    }
    const Step step{.position = 0, .tokens = n};
    device_.write(head_steps_, 0, std::as_bytes(std::span(steps)));
    device_.write(rows_step_, 0, std::as_bytes(std::span(&step, 1)));
    device_.write(rows_, 0, std::as_bytes(std::span(rows).subspan(first, n)));
    device_.write(targets_, 0, std::as_bytes(std::span(targets).subspan(first, n)));
    submit(head_rows_, n);
    for (const model::Program& program : head_forward_) submit(program, n);
    submit(head_loss_, n);
    if (!gradients) continue;
    for (size_t c = 0; c < chunks_.size(); ++c) submit(head_back_[c], n);
    submit(head_scatter_, n);
    // Bounds what is in flight: a batch has many submissions.
    CO_TRY_VOID(co_await device_.sync());
  }
  co_return Status{};
}

Task<Result<StepReport>> Trainer::step(const kernels::AdamParams& adam) {
  device_.write(adam_, 0, std::as_bytes(std::span(&adam, 1)));
  list_.reset();
  parameters_.append_step(list_, cache_);
  device_.submit(list_);
  float result[4] = {};
  CO_TRY_VOID(co_await device_.read(result_, 0, std::as_writable_bytes(std::span(result))));
  list_.reset();
  list_.clear(result_, 0, result_.size());
  device_.submit(list_);
  co_return StepReport{.loss = result[0], .gradient_norm = std::sqrt(double{result[1]})};
}

void Trainer::forget() {
  list_.reset();
  parameters_.append_clear(list_);
  list_.clear(result_, 0, result_.size());
  device_.submit(list_);
}

Task<Result<double>> Trainer::take_loss() {
  float loss = 0;
  CO_TRY_VOID(co_await device_.read(result_, 0, std::as_writable_bytes(std::span(&loss, 1))));
  list_.reset();
  list_.clear(result_, 0, result_.size());
  device_.submit(list_);
  co_return double{loss};
}

}  // namespace lapidary::training
