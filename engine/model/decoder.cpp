#include "engine/model/decoder.h"

#include <algorithm>
#include <cmath>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/quantize.h"
#include "engine/vision/image_size.h"

namespace lapidary::model {
namespace {

// Positions that a sliding layer keeps beyond what a prefill batch needs: a reply of this length
// can be taken back (a changed prompt, a stripped thought) without running the prompt again.
constexpr uint32_t kRingSlack = 512;
constexpr uint32_t kTopk = kernels::kMaxTopK;

// Which row of the embeddings a token has (gemma4.md §4.2).
constexpr uint32_t table_row(uint32_t id) { return id < kSoftToken ? id : 0; }

}  // namespace

Decoder::Decoder(gpu::Device& device, kernels::KernelCache& cache, const Config& config,
                 Weights weights, const DecoderOptions& options)
    : device_(device),
      cache_(cache),
      config_(config),
      weights_(std::move(weights)),
      options_(options),
      tuner_(device, options.variant, std::move(options_.cuts)) {
  options_.max_batch = std::clamp(options_.max_batch, 1u, options_.context);
  topk_ = std::min(kTopk, config_.vocab);
  if (weights_.per_layer_source) {
    rows_ = std::make_unique<RowSource>(*weights_.per_layer_source,
                                        std::sqrt(static_cast<float>(config_.per_layer_dim)));
  }
  uint32_t beyond = options_.max_batch + kRingSlack;
  if (sees_both_ways()) beyond = std::max(beyond, vision::kTokenBudgets.back());
  ring_slots_ = std::max(
      config_.window,
      std::min(options_.context, static_cast<uint32_t>(round_up(config_.window + beyond, 64))));
  batch_layers_ = 0;
  while (batch_layers_ < config_.layers.size() && !config_.layers[batch_layers_].shares_kv)
    ++batch_layers_;
}

Task<Result<std::unique_ptr<Decoder>>> Decoder::create(
    gpu::Device& device, kernels::KernelCache& cache, const Config& config, Weights weights,
    const DecoderOptions& options, std::function<void(uint32_t, uint32_t)> progress) {
  std::unique_ptr<Decoder> decoder(new Decoder(device, cache, config, std::move(weights), options));
  CO_TRY_VOID(decoder->allocate());
  // Buffers that the GPU has no memory for show now, not in what tuning measures.
  CO_TRY_VOID(co_await device.sync());
  decoder->record();
  // Where layers are streamed, the way from the source takes the time; and what the buffers hold
  // that they share is not theirs.
  if (options.tuning_ms > 0 && decoder->weights_.stream == nullptr &&
      decoder->tuner_.has_work(options.tuning_ms)) {
    CO_TRY_VOID(co_await decoder->tune(options.tuning_ms));
    cache.forget_added();
    decoder->record();
  }
  CO_TRY_VOID(co_await decoder->compile_and_bind(std::move(progress)));
  co_return std::move(decoder);
}

Result<Decoder::Needs> Decoder::measure(gpu::Device& device, const Config& config, Weights weights,
                                        const DecoderOptions& options) {
  kernels::KernelCache none(device);
  Decoder decoder(device, none, config, std::move(weights), options);
  TRY_VOID(decoder.allocate());
  if (options.sequences > 1) {
    decoder.steps_.rows = decoder.step_rows();
    TRY_VOID(decoder.allocate_steps(decoder.steps_));
  }
  return Needs{.kv = decoder.kv_bytes_, .scratch = decoder.scratch_bytes_};
}

Task<Status> Decoder::compile_and_bind(std::function<void(uint32_t, uint32_t)> progress) {
  CO_TRY_VOID(co_await cache_.compile(std::move(progress)));
  for (Program* program :
       {&decode_inputs_, &decode_head_, &argmax_, &sample_, &adjust_, &batch_inputs_, &entry_}) {
    CO_TRY_VOID(program->bind(device_, cache_));
  }
  for (Program& program : decode_layers_) CO_TRY_VOID(program.bind(device_, cache_));
  for (size_t l = 0; l < batch_layers_; ++l) {
    CO_TRY_VOID(batch_layers_programs_[l].bind(device_, cache_));
  }
  co_return co_await device_.sync();
}

void Decoder::record() {
  tuner_.forget();
  for (Program* program :
       {&decode_inputs_, &decode_head_, &argmax_, &sample_, &adjust_, &batch_inputs_}) {
    program->clear();
  }
  for (auto* layers : {&decode_layers_, &batch_layers_programs_}) {
    layers->clear();
    layers->resize(config_.layers.size());
  }
  Lane lane = one_lane();
  record_decode(lane);
  record_entry();
  record_sampling();
  record_batch_inputs(batch_inputs_);
  uint32_t current = 0;
  for (size_t l = 0; l < batch_layers_; ++l) {
    record_batch_layer(l, batch_layers_programs_[l], current);
    batch_exit_[l] = current;
  }
}

// Every product reads some of the buffers between layers: numbers between 0.5 and 1.5 in all of
// them suit norms and the merge of attention splits too. What they hold afterwards nobody reads.
Task<Status> Decoder::tune(double budget_ms) {
  const uint32_t tokens = options_.max_batch;
  const auto fill = [&](const gpu::Buffer& buffer) {
    if (!buffer) return;
    // Enough for the values that are compared; zeros beyond them cost a product as much.
    std::vector<float> values(std::min<uint64_t>(buffer.size() / 4, 1 << 16));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = 0.5f + static_cast<float>(i * 2654435761u % 1024) / 1024.0f;
    device_.write(buffer, 0, std::as_bytes(std::span(values)));
  };
  for (const Scratch* s : {&one_, &batch_}) {
    for (const gpu::Buffer* b : {&s->x[0], &s->x[1], &s->h, &s->delta, &s->qkv, &s->attention,
                                 &s->stats, &s->ffn, &s->ple, &s->ple_gate}) {
      fill(*b);
    }
  }
  write_step(one_.step, {});
  write_step(batch_.step, {.tokens = tokens});
  co_return co_await tuner_.run(budget_ms, options_.processors, tokens);
}

Result<gpu::Buffer> Decoder::buffer(uint64_t bytes, uint32_t usage, std::string_view label) {
  if (static_cast<double>(bytes) > device_.info().max_binding_size) {
    return fail(
        ErrorCode::kOutOfMemory,
        cat(label, " needs a binding of ", bytes, " bytes; this adapter allows ",
            device_.info().max_binding_size, ". A shorter context or fewer sessions need less"));
  }
  TRY(gpu::Buffer made, device_.create_buffer(bytes, usage, label));
  scratch_bytes_ += made.size();
  return made;
}

kernels::AttentionSpec Decoder::attention_spec(size_t l) const {
  kernels::AttentionSpec spec = attention_shape(config_, weights_, l);
  spec.slots = config_.layers[l].sliding ? ring_slots_ : options_.context;
  spec.kv_type = options_.kv_type;
  spec.sequences = options_.sequences;
  spec.both_ways = sees_both_ways() && config_.layers[l].sliding;
  return spec;
}

// For which the buffers that attention leaves them in have room: cuts that are known or will be
// found may have more than the usual one.
uint32_t Decoder::attention_splits() const {
  const bool tuned = options_.tuning_ms > 0 || !tuner_.cuts().empty();
  return tuned ? kernels::kMaxTunedSplits : kernels::AttentionTiling{}.splits;
}

uint32_t Decoder::window() const {
  const bool slides = std::ranges::any_of(config_.layers, &LayerConfig::sliding);
  return slides ? config_.window : 0;
}

Decoder::Widths Decoder::widths() const {
  Widths width{.delta = config_.hidden, .low = stack_.max_rank()};
  for (size_t l = 0; l < config_.layers.size(); ++l) {
    const kernels::AttentionSpec attention = attention_spec(l);
    const auto* qkv = fusion_.find(l, Product::kQkv);
    const auto* gate_up = fusion_.find(l, Product::kGateUp);
    // Behind what a kernel gives lie the pieces of A h that it hands over: of gate and up a
    // workgroup has a row at least, of attention a head in a split.
    const uint64_t splits = uint64_t{attention_splits()} * attention.heads;
    const uint32_t per_head = qkv != nullptr ? qkv->shape.handed_rank : 0;
    const uint32_t per_row = gate_up != nullptr ? gate_up->shape.handed_rank : 0;
    width.qkv = std::max<uint64_t>(width.qkv, attention.qkv_rows());
    width.attention = std::max(width.attention, splits * (attention.head_dim + per_head));
    width.stats = std::max(width.stats, splits * 2);
    width.ffn = std::max(width.ffn, uint64_t{config_.layers[l].ffn} * (1 + per_row));
    if (fusion_.empty() && stack_.changes(Product::kGateUp))
      width.raw = std::max<uint64_t>(width.raw, 2 * config_.layers[l].ffn);
  }
  if (!fusion_.empty()) {
    width.delta += kernels::kLowFloats;
    width.low = std::max<uint64_t>(width.low, kernels::kLowFloats);
  }
  return width;
}

// What both a token and a batch have.
Status Decoder::allocate_rows(Scratch& s, uint32_t tokens) {
  const uint64_t row = uint64_t{tokens} * sizeof(float);
  TRY(s.tokens, buffer(row, gpu::kStorageUsage, "tokens"));
  TRY(s.step, buffer(sizeof(kernels::Step), gpu::kParamsUsage, "step"));
  if (config_.experts.count > 0) TRY_VOID(allocate_experts(s, tokens));
  for (gpu::Buffer& x : s.x) {
    TRY(x, buffer(row * config_.hidden, gpu::kStorageUsage, "residual stream"));
  }
  if (config_.per_layer_dim > 0) {
    const uint64_t all = row * config_.per_layer_dim * config_.layers.size();
    TRY(s.ple_tok, buffer(all, gpu::kStorageUsage, "per-layer embedding rows"));
    TRY(s.ple_ctx, buffer(all, gpu::kStorageUsage, "per-layer context"));
    TRY(s.ple, buffer(all, gpu::kStorageUsage, "per-layer inputs"));
    TRY(s.ple_gate, buffer(row * config_.per_layer_dim, gpu::kStorageUsage, "per-layer gate"));
  }
  return {};
}

Status Decoder::allocate_lane(Scratch& s, uint32_t tokens) {
  const Widths width = widths();
  const uint64_t row = uint64_t{tokens} * sizeof(float);
  TRY_VOID(allocate_rows(s, tokens));
  TRY(s.delta, buffer(row * width.delta, gpu::kStorageUsage, "residual update"));
  TRY(s.qkv, buffer(row * width.qkv, gpu::kStorageUsage, "q, k, v"));
  TRY(s.attention, buffer(row * width.attention, gpu::kStorageUsage, "attention output"));
  TRY(s.stats, buffer(row * width.stats, gpu::kStorageUsage, "attention statistics"));
  TRY(s.ffn, buffer(row * width.ffn, gpu::kStorageUsage, "feed-forward activations"));
  return {};
}

Status Decoder::allocate_batch(Scratch& s, uint32_t tokens) {
  const uint32_t head_dim = max_of(config_, [](const LayerConfig& l) { return l.head_dim; });
  const uint32_t ffn = max_of(config_, [](const LayerConfig& l) { return l.ffn; });
  const uint64_t row = uint64_t{tokens} * sizeof(float);
  const uint64_t q_width = uint64_t{config_.heads} * head_dim;
  TRY_VOID(allocate_rows(s, tokens));
  TRY(s.delta, buffer(row * config_.hidden, gpu::kStorageUsage, "residual update"));
  TRY(s.qkv, buffer(row * widths().qkv, gpu::kStorageUsage, "q, k, v"));
  TRY(s.attention, buffer(row * q_width, gpu::kStorageUsage, "attention output"));
  TRY(s.ffn, buffer(row * ffn, gpu::kStorageUsage, "feed-forward activations"));
  TRY(s.spans, buffer(options_.sequences * sizeof(kernels::TokenSpan), gpu::kStorageUsage,
                      "spans of tokens"));
  if (sees_both_ways()) {
    TRY(s.last_seen, buffer(row, gpu::kStorageUsage, "last positions seen"));
  }
  TRY(s.h, buffer(row * config_.hidden, gpu::kStorageUsage, "normed activations"));
  const uint64_t widest = std::max<uint64_t>({config_.hidden, q_width, ffn, config_.per_layer_dim});
  uint64_t quantized = 0;
  for (const kernels::Dot form : kernels::quantized_forms(options_.variant))
    quantized = std::max(quantized, kernels::quantized_bytes(form, widest, tokens));
  if (config_.experts.count > 0) {
    TRY_VOID(allocate_expert_tiles(s, tokens));
    if (expert_form() != kernels::Dot::kF32) {
      quantized =
          std::max(quantized, kernels::quantized_bytes(expert_form(), config_.experts.ffn,
                                                       uint64_t{tokens} * config_.experts.used));
    }
  }
  if (quantized > 0) {
    TRY(s.quantized, buffer(quantized, gpu::kStorageUsage, "quantised activations"));
  }
  return {};
}

Status Decoder::allocate() {
  TRY_VOID(allocate_lane(one_, 1));
  const uint64_t before = scratch_bytes_;
  TRY_VOID(allocate_batch(batch_, options_.max_batch));
  batch_bytes_ = scratch_bytes_ - before;
  TRY(logits_, buffer(uint64_t{config_.vocab} * 4, gpu::kStorageUsage, "logits"));
  TRY(argmax_partial_,
      buffer(kernels::argmax_partial_bytes(config_.vocab), gpu::kStorageUsage, "argmax"));
  TRY(results_, buffer(kernels::kResultSlots * 4, gpu::kStorageUsage, "chosen tokens"));
  TRY(topk_partial_, buffer(kernels::topk_partial_bytes({config_.vocab, topk_}), gpu::kStorageUsage,
                            "top-k partial"));
  TRY(candidates_, buffer(kernels::topk_bytes(topk_), gpu::kStorageUsage, "candidates"));
  TRY(sample_params_, buffer(sizeof(kernels::SampleParams), gpu::kParamsUsage, "sampling"));
  TRY(draws_, buffer(kernels::kDrawSlots * sizeof(kernels::Draw), gpu::kStorageUsage, "draws"));
  TRY(adjust_params_, buffer(sizeof(kernels::AdjustParams), gpu::kParamsUsage, "penalties"));
  // Distinct tokens that penalties and biases can name at once.
  TRY(adjust_entries_, buffer(uint64_t{max_adjustments()} * sizeof(kernels::AdjustEntry),
                              gpu::kStorageUsage, "penalised tokens"));
  const uint64_t scratch = scratch_bytes_;
  k_cache_.resize(config_.layers.size());
  v_cache_.resize(config_.layers.size());
  for (size_t l = 0; l < config_.layers.size(); ++l) {
    const kernels::AttentionSpec spec = attention_spec(l);
    TRY_VOID(kernels::check_attention(spec));
    if (config_.layers[l].shares_kv) continue;
    TRY(k_cache_[l], buffer(kernels::kv_cache_bytes(spec), gpu::kStorageUsage, "key cache"));
    TRY(v_cache_[l], buffer(kernels::kv_cache_bytes(spec), gpu::kStorageUsage, "value cache"));
  }
  kv_bytes_ = scratch_bytes_ - scratch;
  scratch_bytes_ = scratch;
  decode_entry_.resize(config_.layers.size());
  batch_exit_.resize(config_.layers.size());
  return {};
}

void Decoder::write_step(const gpu::Buffer& target, const kernels::Step& step) {
  device_.write(target, 0, std::as_bytes(std::span(&step, 1)));
}

void Decoder::write_spans(std::span<const kernels::TokenSpan> spans) {
  spans_ = static_cast<uint32_t>(spans.size());
  device_.write(batch_.spans, 0, std::as_bytes(spans));
}

// Writes the inputs of a batch; returns its tokens.
uint32_t Decoder::write_batch(std::span<const Prompt> prompts) {
  std::vector<uint32_t> tokens;
  std::vector<kernels::TokenSpan> spans;
  for (const Prompt& prompt : prompts) {
    spans.push_back({.first = static_cast<uint32_t>(tokens.size()),
                     .tokens = static_cast<uint32_t>(prompt.tokens.size()),
                     .position = prompt.position,
                     .sequence = prompt.sequence});
    for (const uint32_t id : prompt.tokens) tokens.push_back(table_row(id));
  }
  device_.write(batch_.tokens, 0, std::as_bytes(std::span(tokens)));
  if (sees_both_ways()) write_last_seen(prompts);
  write_spans(spans);
  const auto count = static_cast<uint32_t>(tokens.size());
  write_step(batch_.step, {.tokens = count, .spans = spans_});
  return count;
}

void Decoder::set_token(uint32_t token, uint32_t position) {
  device_.write(one_.tokens, 0, std::as_bytes(std::span(&token, 1)));
  write_step(one_.step, {.position = position, .sequence = sequence_});
}

Status Decoder::check_adjustments(size_t entries) const {
  if (entries <= max_adjustments()) return {};
  return fail(ErrorCode::kInvalidArgument, cat("penalties and biases name ", entries,
                                               " tokens; at most ", max_adjustments(), " fit"));
}

Status Decoder::set_adjustments(std::span<const kernels::AdjustEntry> entries,
                                const kernels::AdjustParams& params) {
  TRY_VOID(check_adjustments(entries.size()));
  if (!entries.empty()) device_.write(adjust_entries_, 0, std::as_bytes(entries));
  device_.write(adjust_params_, 0, std::as_bytes(std::span(&params, 1)));
  return {};
}

void Decoder::set_sampling(const kernels::SampleParams& params) {
  device_.write(sample_params_, 0, std::as_bytes(std::span(&params, 1)));
}

void Decoder::set_draws(uint32_t position, std::span<const kernels::Draw> draws) {
  device_.write(draws_, uint64_t{position % kernels::kDrawSlots} * sizeof(kernels::Draw),
                std::as_bytes(draws));
}

// Ends the pass after the head: adjusts, chooses, reads back. position: of the token whose logits
// these are.
void Decoder::append_tail(gpu::CommandList& list, const Readback& readback, uint32_t position) {
  if (readback.adjust_entries > 0) adjust_.record(list, cache_, readback.adjust_entries);
  if (readback.choose == Choose::kArgmax) argmax_.record(list, cache_, 0);
  if (readback.choose == Choose::kSample || readback.choose == Choose::kSampleTopk)
    sample_.record(list, cache_, 0);
  list.end_pass();
  switch (readback.choose) {
    case Choose::kNothing:
      break;
    case Choose::kArgmax:
    case Choose::kSample:
      list.read(results_, uint64_t{position % kernels::kResultSlots} * 4, 4, readback.address,
                readback.ticket);
      break;
    case Choose::kSampleTopk:
      list.read(candidates_, 0, candidate_bytes(), readback.address, readback.ticket);
      break;
    case Choose::kLogits:
      list.read(logits_, 0, config_.vocab * 4, readback.address, readback.ticket);
      break;
  }
}

Task<Status> Decoder::provide(std::span<const uint32_t> tokens, bool last) {
  if (!rows_) co_return Status{};
  std::vector<uint32_t> rows;
  for (const uint32_t id : tokens) rows.push_back(table_row(id));
  // The last token of a prompt goes through the layers of decoding, too (prefill).
  if (rows.size() > 1 || !last) CO_TRY_VOID(co_await rows_->gather(device_, rows, batch_.ple_tok));
  if (last) CO_TRY_VOID(co_await rows_->gather(device_, std::span(rows).last(1), one_.ple_tok));
  co_return Status{};
}

// What a batch's layers start from. The rows of soft tokens take their places once the embedding
// has been gathered, before anything reads it; copies lie between passes.
void Decoder::submit_inputs(std::span<const Prompt> prompts, uint32_t count) {
  const uint64_t row = uint64_t{config_.hidden} * sizeof(float);
  bool between = false;
  const auto place = [&] {
    uint32_t first = 0;
    for (const Prompt& prompt : prompts) {
      const auto size = static_cast<uint32_t>(prompt.tokens.size());
      for (const SoftRows& soft : prompt.soft) {
        const uint32_t begin = std::max(soft.position, prompt.position);
        const uint32_t end = std::min(soft.position + soft.rows, prompt.position + size);
        if (begin >= end) continue;
        if (!between) list_.end_pass();
        between = true;
        list_.copy(*soft.values, (begin - soft.position) * row, batch_.x[0],
                   (first + begin - prompt.position) * row, (end - begin) * row);
      }
      first += size;
    }
    if (between) list_.begin_pass();
  };
  const size_t gathers = weights_.token_embd.parts.size();
  for (size_t i = 0; i < gathers; ++i) batch_inputs_.record_step(i, list_, cache_, count);
  place();
  for (size_t i = gathers; i < batch_inputs_.size(); ++i)
    batch_inputs_.record_step(i, list_, cache_, count);
}

Task<Status> Decoder::record_layers(const std::vector<Program>& layers, size_t first, size_t end,
                                    uint32_t n, const Scratch& s, uint32_t tokens) {
  for (size_t l = first; l < end; ++l) {
    if (l >= weights_.resident) {
      list_.end_pass();
      device_.submit(list_);
      list_.reset();
      CO_TRY_VOID(co_await weights_.stream->load(l - weights_.resident, end - weights_.resident));
      list_.begin_pass();
    }
    if (weights_.experts == nullptr) {
      layers[l].record(list_, cache_, n);
    } else {
      CO_TRY_VOID(co_await record_with_experts(layers[l], l, n, s.chosen, tokens));
    }
  }
  co_return Status{};
}

// Begins a pass with the layers that compute K and V.
Task<Status> Decoder::record_batch(std::span<const Prompt> prompts) {
  const uint32_t count = write_batch(prompts);
  list_.reset();
  list_.begin_pass();
  submit_inputs(prompts, count);
  co_return co_await record_layers(batch_layers_programs_, 0, batch_layers_, count, batch_, count);
}

Task<Status> Decoder::decode(uint32_t position, Readback readback) {
  list_.reset();
  list_.begin_pass();
  decode_inputs_.record(list_, cache_, position);
  CO_TRY_VOID(co_await record_layers(decode_layers_, 0, decode_layers_.size(), position, one_, 1));
  decode_head_.record(list_, cache_, position);
  append_tail(list_, readback, position);
  device_.submit(list_);
  co_return Status{};
}

Task<Status> Decoder::prefill(std::span<const uint32_t> tokens, uint32_t position, bool last,
                              Readback readback, std::span<const SoftRows> soft) {
  const auto count = static_cast<uint32_t>(tokens.size());
  const uint32_t end = position + count - 1;
  if (last) set_token(tokens.back(), end);
  if (count == 1 && last) co_return co_await decode(end, readback);
  const Prompt prompt{.sequence = sequence_, .position = position, .tokens = tokens, .soft = soft};
  if (!last) co_return co_await prefill({&prompt, 1});
  CO_TRY_VOID(co_await record_batch({&prompt, 1}));
  // The last token goes on alone. Its per-layer inputs are made anew; its stream comes from the
  // batch.
  const bool more = batch_layers_ < config_.layers.size();
  if (more) decode_inputs_.record(list_, cache_, end);
  list_.end_pass();
  const uint64_t row = uint64_t{config_.hidden} * sizeof(float);
  const gpu::Buffer& x = batch_.x[batch_exit_[batch_layers_ - 1]];
  const uint32_t entry = more ? decode_entry_[batch_layers_] : head_entry_;
  list_.copy(x, (count - 1) * row, one_.x[entry], 0, row);
  list_.copy(batch_.delta, (count - 1) * row, one_.delta, 0, row);
  list_.begin_pass();
  if (entry_.size() > 0) {
    entry_.record(list_, cache_, end);
    list_.end_pass();
    list_.copy(one_low_, 0, one_.delta, row, kernels::kLowFloats * sizeof(float));
    list_.begin_pass();
  }
  CO_TRY_VOID(
      co_await record_layers(decode_layers_, batch_layers_, config_.layers.size(), end, one_, 1));
  decode_head_.record(list_, cache_, end);
  append_tail(list_, readback, end);
  device_.submit(list_);
  co_return Status{};
}

Task<Status> Decoder::prefill(std::span<const Prompt> prompts) {
  CO_TRY_VOID(co_await record_batch(prompts));
  list_.end_pass();
  device_.submit(list_);
  co_return Status{};
}

}  // namespace lapidary::model
