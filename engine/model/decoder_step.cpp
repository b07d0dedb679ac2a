// The part of the decoder that runs one token of each of several sequences through every layer in
// one batch and draws the next token of each.
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

Status Decoder::allocate_steps() {
  const uint64_t rows = step_rows();
  const uint64_t before = scratch_bytes_;
  Steps made;
  const auto allocate = [&]() -> Status {
    TRY(made.logits, buffer(rows * step_logits_stride(), gpu::kStorageUsage, "logits of a step"));
    TRY(made.partial, buffer(kernels::topk_partial_bytes({config_.vocab, topk_}),
                             gpu::kStorageUsage, "top-k partial of a step"));
    TRY(made.candidates, buffer(rows * step_stride(), gpu::kStorageUsage, "candidates of a step"));
    TRY(made.adjust_entries,
        buffer(rows * step_entries_stride(), gpu::kStorageUsage, "penalised tokens of a step"));
    uint64_t sums = 0;
    uint64_t splits = 0;
    for (size_t l = 0; l < config_.layers.size(); ++l) {
      const kernels::AttentionSpec spec = attention_spec(l);
      splits = std::max<uint64_t>(splits, uint64_t{spec.tiling.splits} * spec.heads);
      sums = std::max<uint64_t>(sums, uint64_t{spec.tiling.splits} * spec.heads * spec.head_dim);
    }
    TRY(made.attention,
        buffer(rows * sums * sizeof(float), gpu::kStorageUsage, "attention output of a step"));
    TRY(made.stats, buffer(rows * splits * 2 * sizeof(float), gpu::kStorageUsage,
                           "attention statistics of a step"));
    TRY(made.params, buffer(rows * kParamBlocks * kBlock, gpu::kParamsUsage, "rows of a step"));
    TRY(made.places, buffer(rows * kBlock, gpu::kStorageUsage, "places of a step"));
    TRY(made.choices,
        buffer(rows * kChoiceBlocks * kBlock, gpu::kStorageUsage, "choices of a step"));
    return {};
  };
  Status status = allocate();
  if (status) {
    steps_ = std::move(made);
  } else {
    scratch_bytes_ = before;
  }
  return status;
}

void Decoder::record_steps() {
  for (Program* program : {&steps_.inputs, &steps_.norm, &steps_.head}) program->clear();
  for (auto* rows : {&steps_.layers, &steps_.adjust, &steps_.sample}) rows->clear();
  steps_.layers.resize(config_.layers.size());
  steps_.adjust.resize(step_rows());
  steps_.sample.resize(step_rows());
  record_batch_inputs(steps_.inputs, true);
  uint32_t current = 0;
  for (size_t l = 0; l < config_.layers.size(); ++l)
    record_batch_layer(l, steps_.layers[l], current, true);
  const gpu::Buffer& h = record_residual_norm(steps_.norm, weights_.before_head, true, current);
  const auto stride = static_cast<uint32_t>(step_logits_stride() / sizeof(float));
  record_head(steps_.head, h, steps_.logits, batch_.step, stride, true);
  for (uint32_t row = 0; row < step_rows(); ++row) record_step_row(row);
}

void Decoder::record_step_attention(size_t l, Program& program) {
  const kernels::AttentionSpec spec = attention_spec(l);
  program.add(cache_, kernels::attention_rows_source(spec, options_.variant),
              std::vector<gpu::Range>{batch_.qkv, vectors(weights_.layers[l].qk_norms),
                                      weights_.rope(config_.layers[l]), k_cache(l), v_cache(l),
                                      steps_.attention, steps_.stats, batch_.spans, batch_.step},
              [this, spec](uint32_t rows) {
                return kernels::attention_rows_groups(spec, rows, steps_.last);
              });
  program.add(cache_, kernels::attention_merge_source(spec),
              std::vector<gpu::Range>{steps_.attention, steps_.stats, batch_.attention,
                                      batch_.spans, batch_.step},
              [spec](uint32_t rows) { return kernels::attention_merge_groups(spec, rows); });
}

void Decoder::record_step_row(uint32_t row) {
  const kernels::Variant& variant = options_.variant;
  const uint64_t vocab_bytes = uint64_t{config_.vocab} * sizeof(float);
  const gpu::Range logits(steps_.logits, row * step_logits_stride(), vocab_bytes);
  const uint64_t entry_bytes = uint64_t{max_adjustments()} * sizeof(kernels::AdjustEntry);
  const uint64_t params = row * kParamBlocks;
  const uint64_t choices = row * kChoiceBlocks;
  const gpu::Range sampling =
      block(steps_.params, params + kSampling, sizeof(kernels::SampleParams));
  steps_.adjust[row].add(cache_, kernels::adjust_source(config_.vocab, variant),
                         std::vector<gpu::Range>{
                             logits,
                             {steps_.adjust_entries, row * step_entries_stride(), entry_bytes},
                             block(steps_.params, params + kAdjust, sizeof(kernels::AdjustParams))},
                         [](uint32_t entries) { return kernels::adjust_groups(entries); });
  const kernels::TopkSpec topk{config_.vocab, topk_};
  Program& sample = steps_.sample[row];
  sample.add(cache_, kernels::topk_source(topk, variant), {logits, steps_.partial, sampling},
             kernels::topk_groups(config_.vocab));
  sample.add(cache_, kernels::sample_source(topk, variant),
             {steps_.partial,
              {steps_.candidates, uint64_t{row} * step_stride(), step_stride()},
              logits,
              sampling,
              block(steps_.params, params + kDraw),
              block(steps_.choices, choices + kToken),
              block(steps_.choices, choices + kResult),
              block(steps_.places, row, sizeof(kernels::Step))},
             kernels::Groups{});
}

Task<Status> Decoder::prepare_steps() {
  if (steps_.ready) co_return Status{};
  if (!steps_.logits) CO_TRY_VOID(allocate_steps());
  record_steps();
  const auto bind = [&]() -> Task<Status> {
    CO_TRY_VOID(co_await cache_.compile());
    for (Program* program : {&steps_.inputs, &steps_.norm, &steps_.head})
      CO_TRY_VOID(program->bind(device_, cache_));
    for (auto* programs : {&steps_.layers, &steps_.adjust, &steps_.sample}) {
      for (Program& program : *programs) CO_TRY_VOID(program.bind(device_, cache_));
    }
    // Buffers that the GPU had no memory for show here.
    co_return co_await device_.sync();
  };
  Status status = co_await bind();
  if (status) {
    steps_.ready = true;
  } else {
    cache_.forget_added();
    steps_ = {};
  }
  co_return status;
}

void Decoder::step(std::span<const StepRow> rows, bool fed, void* out, uint32_t ticket) {
  const auto count = static_cast<uint32_t>(rows.size());
  std::vector<kernels::TokenSpan> spans;
  std::vector<uint32_t> tokens;
  std::vector<std::byte> params(count * kParamBlocks * kBlock);
  steps_.last = std::ranges::max(rows, {}, &StepRow::position).position;
  const auto put = [&](uint64_t index, const auto& value) {
    std::memcpy(params.data() + index * kBlock, &value, sizeof(value));
  };
  for (uint32_t r = 0; r < count; ++r) {
    const StepRow& row = rows[r];
    spans.push_back({.first = r, .position = row.position, .sequence = row.sequence});
    tokens.push_back(row.token);
    put(r * kParamBlocks + kSampling, row.sampling);
    put(r * kParamBlocks + kAdjust, row.adjust);
    put(r * kParamBlocks + kDraw, row.draw);
    if (!fed && !row.adjustments.empty())
      device_.write(steps_.adjust_entries, r * step_entries_stride(),
                    std::as_bytes(row.adjustments));
  }
  device_.write(steps_.params, 0, params);
  write_spans(spans);
  list_.reset();
  if (fed) {
    for (uint32_t r = 0; r < count; ++r) {
      list_.copy(steps_.choices, (r * kChoiceBlocks + kToken) * kBlock, batch_.tokens,
                 uint64_t{r} * sizeof(uint32_t), sizeof(uint32_t));
    }
  } else {
    device_.write(batch_.tokens, 0, std::as_bytes(std::span(tokens)));
    write_step(batch_.step, {.tokens = count, .spans = count});
  }
  // Every row's draw is that of position 0.
  list_.clear(steps_.places, 0, count * kBlock);
  list_.begin_pass();
  steps_.inputs.record(list_, cache_, count);
  for (const Program& layer : steps_.layers) layer.record(list_, cache_, count);
  steps_.norm.record(list_, cache_, count);
  steps_.head.record(list_, cache_, count);
  for (uint32_t r = 0; r < count; ++r) {
    if (rows[r].adjust.entries > 0) steps_.adjust[r].record(list_, cache_, rows[r].adjust.entries);
    steps_.sample[r].record(list_, cache_, 0);
  }
  list_.end_pass();
  list_.read(steps_.candidates, 0, count * step_stride(), out, ticket);
  device_.submit(list_);
}

Task<Status> Decoder::read_step_logits(uint32_t row, std::span<float> out) const {
  co_return co_await device_.read(steps_.logits, row * step_logits_stride(),
                                  std::as_writable_bytes(out));
}

}  // namespace lapidary::model
