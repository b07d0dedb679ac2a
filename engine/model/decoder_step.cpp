// The part of the decoder that runs several tokens through every layer in one batch, as decoding
// does each of them, and draws the next token of each: one of each of several sequences (a step),
// or tokens that follow each other in one (what a drafter guessed: decoder_verify.cpp).
#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/kernels/elementwise.h"
#include "engine/model/decoder.h"

namespace lapidary::model {
namespace {

// Where a binding may begin.
constexpr uint64_t kBlock = 256;

// Of a row's parameters, by block: read as uniforms and storage.
constexpr uint64_t kSampling = 0;
constexpr uint64_t kAdjust = 1;
constexpr uint64_t kDraw = 2;
constexpr uint64_t kParamBlocks = 3;
// Of what the choice writes. Nobody reads the result there: it is in the candidates.
constexpr uint64_t kToken = 0;
constexpr uint64_t kResult = 1;
constexpr uint64_t kChoiceBlocks = 2;
static_assert(kernels::kResultSlots * sizeof(uint32_t) <= kBlock);

gpu::Range block(const gpu::Buffer& buffer, uint64_t index, uint64_t bytes = kBlock) {
  return {buffer, index * kBlock, bytes};
}

}  // namespace

uint32_t Decoder::step_stride() const {
  return static_cast<uint32_t>(round_up(candidate_bytes(), kBlock));
}

uint64_t Decoder::step_logits_stride() const {
  return round_up(uint64_t{config_.vocab} * sizeof(float), kBlock);
}

uint64_t Decoder::step_entries_stride() const {
  return round_up(uint64_t{max_adjustments()} * sizeof(kernels::AdjustEntry), kBlock);
}

Status Decoder::allocate_steps(Steps& steps) {
  const uint32_t rows = steps.rows;
  const Widths width = widths();
  const uint64_t before = scratch_bytes_;
  Steps made{.rows = rows, .one_sequence = steps.one_sequence};
  const auto allocate = [&](gpu::Buffer& out, uint64_t bytes, std::string_view label,
                            uint32_t usage = gpu::kStorageUsage) -> Status {
    if (bytes == 0) return {};
    TRY(out, buffer(bytes, usage, label));
    return {};
  };
  const auto allocate_all = [&]() -> Status {
    TRY_VOID(allocate_lane(made.s, rows));
    TRY_VOID(allocate(made.places, kernels::kMaxStepRows * sizeof(kernels::Step),
                      "places of a step", gpu::kParamsUsage));
    TRY_VOID(allocate(made.low, rows * width.low * sizeof(float), "low-rank products of a step"));
    TRY_VOID(allocate(made.raw, rows * width.raw * sizeof(float), "gate and up of a step"));
    TRY_VOID(allocate(made.logits, rows * step_logits_stride(), "logits of a step"));
    TRY_VOID(allocate(made.partial, kernels::topk_partial_bytes({config_.vocab, topk_}),
                      "top-k partial of a step"));
    // Behind them room for the tokens that the rows ran (decoder_verify.cpp).
    TRY_VOID(
        allocate(made.candidates, uint64_t{rows} * step_stride() + kBlock, "candidates of a step"));
    TRY_VOID(
        allocate(made.adjust_entries, rows * step_entries_stride(), "penalised tokens of a step"));
    TRY_VOID(
        allocate(made.params, rows * kParamBlocks * kBlock, "rows of a step", gpu::kParamsUsage));
    TRY_VOID(allocate(made.draws_at, rows * kBlock, "places of draws"));
    TRY_VOID(allocate(made.choices, rows * kChoiceBlocks * kBlock, "choices of a step"));
    return {};
  };
  Status status = allocate_all();
  if (status) {
    made.bytes = scratch_bytes_ - before;
    steps = std::move(made);
  } else {
    scratch_bytes_ = before;
  }
  return status;
}

Decoder::Lane Decoder::step_lane(Steps& steps) {
  const Scratch& s = steps.s;
  const Widths width = widths();
  Lane lane{.s = s,
            .place = steps.places,
            .logits = steps.logits,
            .low = steps.low,
            .raw = steps.raw,
            .inputs = steps.inputs,
            .layers = steps.layers,
            .head = steps.head,
            .one_sequence = steps.one_sequence,
            .last = &steps.last};
  const uint64_t all_layers = config_.layers.size() * uint64_t{config_.per_layer_dim};
  const auto set = [&](const gpu::Buffer& buffer, uint64_t floats) {
    if (buffer) lane.strides[buffer.id()] = static_cast<uint32_t>(floats);
  };
  for (const gpu::Buffer& x : s.x) set(x, config_.hidden);
  set(s.delta, width.delta);
  set(s.attention, width.attention);
  set(s.stats, width.stats);
  set(s.ffn, width.ffn);
  set(s.router, config_.experts.count);
  set(s.ple_ctx, all_layers);
  set(s.ple, all_layers);
  set(s.ple_gate, config_.per_layer_dim);
  set(steps.logits, step_logits_stride() / sizeof(float));
  return lane;
}

void Decoder::record_steps(Steps& steps) {
  for (Program* program : {&steps.inputs, &steps.head}) program->clear();
  for (auto* rows : {&steps.layers, &steps.adjust, &steps.sample}) rows->clear();
  steps.layers.resize(config_.layers.size());
  steps.adjust.resize(steps.rows);
  steps.sample.resize(steps.rows);
  Lane lane = step_lane(steps);
  record_decode(lane);
  for (uint32_t row = 0; row < steps.rows; ++row) record_step_row(steps, row);
}

void Decoder::record_step_row(Steps& steps, uint32_t row) {
  const kernels::Variant& variant = options_.variant;
  const uint64_t vocab_bytes = uint64_t{config_.vocab} * sizeof(float);
  const gpu::Range logits(steps.logits, row * step_logits_stride(), vocab_bytes);
  const uint64_t entry_bytes = uint64_t{max_adjustments()} * sizeof(kernels::AdjustEntry);
  const uint64_t params = row * kParamBlocks;
  const uint64_t choices = row * kChoiceBlocks;
  const gpu::Range sampling =
      block(steps.params, params + kSampling, sizeof(kernels::SampleParams));
  steps.adjust[row].add(
      cache_, kernels::adjust_source(config_.vocab, variant),
      std::vector<gpu::Range>{logits,
                              {steps.adjust_entries, row * step_entries_stride(), entry_bytes},
                              block(steps.params, params + kAdjust, sizeof(kernels::AdjustParams))},
      [](uint32_t entries) { return kernels::adjust_groups(entries); });
  const kernels::TopkSpec topk{config_.vocab, topk_};
  Program& sample = steps.sample[row];
  sample.add(cache_, kernels::topk_source(topk, variant), {logits, steps.partial, sampling},
             kernels::topk_groups(config_.vocab));
  sample.add(cache_, kernels::sample_source(topk, variant),
             {steps.partial,
              {steps.candidates, uint64_t{row} * step_stride(), step_stride()},
              logits,
              sampling,
              block(steps.params, params + kDraw),
              block(steps.choices, choices + kToken),
              block(steps.choices, choices + kResult),
              block(steps.draws_at, row, sizeof(kernels::Step))},
             kernels::Groups{});
}

Task<Status> Decoder::prepare_steps() {
  steps_.rows = step_rows();
  return prepare(steps_);
}

Task<Status> Decoder::prepare(Steps& steps) {
  if (steps.ready) co_return Status{};
  if (!steps.logits) CO_TRY_VOID(allocate_steps(steps));
  record_steps(steps);
  const auto bind = [&]() -> Task<Status> {
    CO_TRY_VOID(co_await cache_.compile());
    for (Program* program : {&steps.inputs, &steps.head})
      CO_TRY_VOID(program->bind(device_, cache_));
    for (auto* programs : {&steps.layers, &steps.adjust, &steps.sample}) {
      for (Program& program : *programs) CO_TRY_VOID(program.bind(device_, cache_));
    }
    // Buffers that the GPU had no memory for show here.
    co_return co_await device_.sync();
  };
  Status status = co_await bind();
  if (status) {
    steps.ready = true;
  } else {
    cache_.forget_added();
    scratch_bytes_ -= steps.bytes;
    steps = {.rows = steps.rows, .one_sequence = steps.one_sequence};
  }
  co_return status;
}

Task<Status> Decoder::provide_step(std::span<const uint32_t> tokens) {
  if (rows_) CO_TRY_VOID(co_await rows_->gather(device_, tokens, steps_.s.ple_tok));
  co_return Status{};
}

// What each row has of its own, but its token. adjust: its penalties, too.
void Decoder::write_rows(Steps& steps, std::span<const StepRow> rows, bool adjust) {
  std::vector<kernels::Step> places;
  std::vector<std::byte> params(rows.size() * kParamBlocks * kBlock);
  steps.last = std::ranges::max(rows, {}, &StepRow::position).position;
  const auto put = [&](uint64_t index, const auto& value) {
    std::memcpy(params.data() + index * kBlock, &value, sizeof(value));
  };
  for (size_t r = 0; r < rows.size(); ++r) {
    const StepRow& row = rows[r];
    places.push_back({.position = row.position, .sequence = row.sequence});
    put(r * kParamBlocks + kSampling, row.sampling);
    put(r * kParamBlocks + kAdjust, row.adjust);
    put(r * kParamBlocks + kDraw, row.draw);
    if (adjust && !row.adjustments.empty())
      device_.write(steps.adjust_entries, r * step_entries_stride(),
                    std::as_bytes(row.adjustments));
  }
  device_.write(steps.params, 0, params);
  device_.write(steps.places, 0, std::as_bytes(std::span(places)));
}

// A pass: the tokens in the step's buffer through every layer and the head, and the draws.
Task<Status> Decoder::run_rows(Steps& steps, std::span<const StepRow> rows) {
  const auto count = static_cast<uint32_t>(rows.size());
  // Every row's draw is that of position 0.
  list_.clear(steps.draws_at, 0, count * kBlock);
  list_.begin_pass();
  steps.inputs.record(list_, cache_, count);
  CO_TRY_VOID(co_await record_layers(steps.layers, 0, steps.layers.size(), count, steps.s, count));
  steps.head.record(list_, cache_, count);
  for (uint32_t r = 0; r < count; ++r) {
    if (rows[r].adjust.entries > 0) steps.adjust[r].record(list_, cache_, rows[r].adjust.entries);
    steps.sample[r].record(list_, cache_, 0);
  }
  list_.end_pass();
  co_return Status{};
}

Task<Status> Decoder::step(std::span<const StepRow> rows, bool fed, void* out, uint32_t ticket) {
  const auto count = static_cast<uint32_t>(rows.size());
  write_rows(steps_, rows, !fed);
  list_.reset();
  if (fed) {
    for (uint32_t r = 0; r < count; ++r) {
      list_.copy(steps_.choices, (r * kChoiceBlocks + kToken) * kBlock, steps_.s.tokens,
                 uint64_t{r} * sizeof(uint32_t), sizeof(uint32_t));
    }
  } else {
    std::vector<uint32_t> tokens;
    for (const StepRow& row : rows) tokens.push_back(row.token);
    device_.write(steps_.s.tokens, 0, std::as_bytes(std::span(tokens)));
    write_step(steps_.s.step, {.tokens = count});
  }
  CO_TRY_VOID(co_await run_rows(steps_, rows));
  list_.read(steps_.candidates, 0, count * step_stride(), out, ticket);
  device_.submit(list_);
  co_return Status{};
}

Task<Status> Decoder::read_row_logits(bool verified, uint32_t row, std::span<float> out) const {
  co_return co_await device_.read((verified ? verify_ : steps_).logits, row * step_logits_stride(),
                                  std::as_writable_bytes(out));
}

}  // namespace lapidary::model
