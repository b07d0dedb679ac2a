// The part of the decoder that puts adapters to use: memory for what they add, and the programs
// with their kernels (decoder_record.cpp) in place of those without.
#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/model/decoder.h"

namespace lapidary::model {

namespace {

// Kernels that make a change compile longer than others, and adapters are set less often than
// models are loaded: tuning may take so many times as long as in a load.
constexpr double kChangesTuning = 2;

}  // namespace

// Sizes only grow.
Status Decoder::allocate_for_adapters() {
  const auto grow = [&](gpu::Buffer& old, uint64_t floats, std::string_view label) -> Status {
    const uint64_t bytes = floats * sizeof(float);
    if (bytes == 0 || (old && old.size() >= bytes)) return {};
    const uint64_t size = old ? old.size() : 0;
    TRY(old, buffer(bytes, gpu::kStorageUsage, label));
    scratch_bytes_ -= size;
    return {};
  };
  const Widths width = widths();
  TRY_VOID(grow(one_.attention, width.attention, "attention output"));
  TRY_VOID(grow(one_.delta, width.delta, "residual update"));
  TRY_VOID(grow(one_.ffn, width.ffn, "feed-forward activations"));
  TRY_VOID(grow(one_low_, width.low, "low-rank products"));
  TRY_VOID(grow(one_raw_, width.raw, "gate and up"));
  if (stack_.changes(Product::kGateUp)) {
    const uint64_t ffn = max_of(config_, [](const LayerConfig& l) { return l.ffn; });
    TRY_VOID(grow(batch_raw_, uint64_t{options_.max_batch} * 2 * ffn, "gate and up of a batch"));
  }
  // The head of all positions goes by blocks of 64.
  return grow(batch_low_, round_up(options_.max_batch, 64) * stack_.max_rank() + 1,
              "low-rank products of a batch");
}

// The batch leaves the residual stream and its update, and no V and U of what follows.
void Decoder::record_entry() {
  entry_.clear();
  const uint32_t rank = fusion_.entry_rank();
  if (rank == 0) return;
  // Where a kernel would have left them: behind the update (prefill()).
  const uint32_t x = decode_entry_[batch_layers_];
  const uint64_t bytes = uint64_t{rank} * config_.hidden * sizeof(float);
  Lane lane = one_lane();
  kernels::MatvecSpec spec{.segments = {{kernels::Codec::kF32, rank, 0}}, .cols = config_.hidden};
  record_matvec(lane, entry_, spec, {{fusion_.entry(), 0, bytes}, one_low_, one_.delta});
  spec.segments[0].offset = bytes;
  spec.row_offset = kernels::kLowU;
  record_matvec(lane, entry_, spec, {fusion_.entry(), one_low_, one_.x[x]});
}

Task<Status> Decoder::record_anew() {
  CO_TRY_VOID(allocate_for_adapters());
  CO_TRY_VOID(co_await device_.sync());
  record();
  // Timing attention would write over what the cache holds; the rest is a load's to tune.
  tuner_.forget_plain();
  const double budget = kChangesTuning * options_.tuning_ms;
  if (budget > 0 && tuner_.has_work(budget)) {
    CO_TRY_VOID(co_await tune(budget));
    cache_.forget_added();
    record();
  }
  // Prepared again when they are asked for.
  hidden_ = nullptr;
  logits_rows_ = 0;
  scratch_bytes_ -= steps_.bytes + verify_.bytes;
  steps_ = {};
  verify_ = {};
  co_return co_await compile_and_bind(nullptr);
}

Task<Status> Decoder::set_adapters(std::span<const ActiveAdapter> active) {
  CO_TRY(AdapterStack stack, co_await AdapterStack::create(device_, config_, weights_, active));
  CO_TRY(AdapterFusion fusion,
         co_await AdapterFusion::create(device_, config_, weights_, options_.variant, stack,
                                        batch_layers_));
  std::swap(stack_, stack);
  std::swap(fusion_, fusion);
  Status status = co_await record_anew();
  if (status) co_return Status{};
  std::swap(stack_, stack);
  std::swap(fusion_, fusion);
  cache_.forget_added();
  // Of what failed the device may have more to report: that is not this attempt's.
  static_cast<void>(co_await device_.sync());
  CO_TRY_VOID(co_await record_anew());
  co_return status;
}

}  // namespace lapidary::model
