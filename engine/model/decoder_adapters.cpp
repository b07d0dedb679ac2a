// The part of the decoder that puts adapters to use: memory for what they add, and the programs
// with their kernels (decoder_record.cpp) in place of those without.
#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/model/decoder.h"

namespace lapidary::model {

// Sizes only grow: without adapters nothing reads what is behind the outputs.
Status Decoder::allocate_for_adapters() {
  const auto tail = static_cast<uint32_t>(round_up(stack_.max_tail(), 4));
  if (tail > tail_) {
    const uint64_t more = uint64_t{tail - tail_} * sizeof(float);
    gpu::Buffer* const grown[] = {&one_.qkv, &one_.delta, &one_.ple_gate, &logits_};
    const char* const labels[] = {"q, k, v", "residual update", "per-layer gate", "logits"};
    gpu::Buffer made[std::size(grown)];
    const uint64_t before = scratch_bytes_;
    for (size_t i = 0; i < std::size(grown); ++i) {
      if (!*grown[i]) continue;
      TRY(made[i], buffer(grown[i]->size() + more, gpu::kStorageUsage, labels[i]));
    }
    scratch_bytes_ = before;
    for (size_t i = 0; i < std::size(grown); ++i) {
      if (!*grown[i]) continue;
      scratch_bytes_ += made[i].size() - grown[i]->size();
      *grown[i] = std::move(made[i]);
    }
    tail_ = tail;
    one_raw_ = {};
  }
  const auto grow = [&](gpu::Buffer& old, uint64_t bytes, std::string_view label) -> Status {
    if (old && old.size() >= bytes) return {};
    const uint64_t size = old ? old.size() : 0;
    TRY(old, buffer(bytes, gpu::kStorageUsage, label));
    scratch_bytes_ -= size;
    return {};
  };
  if (stack_.changes(Product::kGateUp)) {
    const uint64_t ffn = std::ranges::max_element(config_.layers, {}, &LayerConfig::ffn)->ffn;
    TRY_VOID(grow(one_raw_, (2 * ffn + tail_) * sizeof(float), "gate and up"));
    TRY_VOID(grow(batch_raw_, uint64_t{options_.max_batch} * 2 * ffn * sizeof(float),
                  "gate and up of a batch"));
  }
  // The head of all positions goes by blocks of 64.
  return grow(batch_low_,
              round_up(options_.max_batch, 64) * stack_.max_rank() * sizeof(float) + sizeof(float),
              "low-rank products");
}

Task<Status> Decoder::record_anew() {
  CO_TRY_VOID(allocate_for_adapters());
  CO_TRY_VOID(co_await device_.sync());
  record();
  // Prepared again when they are asked for.
  all_norm_.clear();
  all_head_.clear();
  logits_rows_ = 0;
  co_return co_await compile_and_bind(nullptr);
}

Task<Status> Decoder::set_adapters(std::span<const ActiveAdapter> active) {
  CO_TRY(AdapterStack stack, co_await AdapterStack::create(device_, config_, weights_, active));
  std::swap(stack_, stack);
  Status status = co_await record_anew();
  if (status) co_return Status{};
  std::swap(stack_, stack);
  cache_.forget_added();
  // Of what failed the device may have more to report: that is not this attempt's.
  static_cast<void>(co_await device_.sync());
  CO_TRY_VOID(co_await record_anew());
  co_return status;
}

}  // namespace lapidary::model
