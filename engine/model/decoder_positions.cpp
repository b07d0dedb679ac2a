// The part of the decoder that runs every position through every layer: for hidden states and for
// the logits of all positions, which prompts and replies do not need.
#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/model/decoder.h"

namespace lapidary::model {
namespace {

// Floats of the logits of all positions that are on the GPU at once.
constexpr uint32_t kAllLogitsFloats = 4 << 20;

}  // namespace

Task<Status> Decoder::prepare_hidden() {
  if (hidden_ != nullptr) co_return Status{};
  // What an attempt that failed recorded.
  for (size_t l = batch_layers_; l < config_.layers.size(); ++l) batch_layers_programs_[l].clear();
  all_norm_.clear();
  uint32_t current = batch_exit_[batch_layers_ - 1];
  for (size_t l = batch_layers_; l < config_.layers.size(); ++l) {
    record_batch_layer(l, batch_layers_programs_[l], current);
    batch_exit_[l] = current;
  }
  const gpu::Buffer& h = record_residual_norm(all_norm_, weights_.before_head, true, current);
  CO_TRY_VOID(co_await cache_.compile());
  for (Program& program : batch_layers_programs_) CO_TRY_VOID(program.bind(device_, cache_));
  CO_TRY_VOID(all_norm_.bind(device_, cache_));
  hidden_ = &h;
  co_return Status{};
}

Task<Status> Decoder::prepare_all_positions() {
  CO_TRY_VOID(co_await prepare_hidden());
  if (logits_rows_ > 0) co_return Status{};
  // Whole multiples of 64 rows keep every block's binding aligned.
  const uint32_t rows = std::max(64u, kAllLogitsFloats / config_.vocab / 64 * 64);
  const uint32_t block = std::min(rows, static_cast<uint32_t>(round_up(options_.max_batch, 64)));
  CO_TRY(all_logits_, buffer(uint64_t{block} * config_.vocab * 4, gpu::kStorageUsage,
                             "logits of all positions"));
  CO_TRY(all_step_, buffer(sizeof(kernels::Step), gpu::kParamsUsage, "step of the head"));
  all_head_.clear();
  record_all_head(block);
  CO_TRY_VOID(co_await cache_.compile());
  for (Program& program : all_head_) CO_TRY_VOID(program.bind(device_, cache_));
  logits_rows_ = block;
  co_return Status{};
}

Task<Status> Decoder::run_all_layers(std::span<const Prompt> prompts) {
  const uint32_t count = write_batch(prompts);
  list_.reset();
  list_.begin_pass();
  submit_inputs(prompts, count);
  CO_TRY_VOID(co_await record_layers(batch_layers_programs_, 0, batch_layers_programs_.size(),
                                     count, batch_, count));
  all_norm_.record(list_, cache_, count);
  list_.end_pass();
  device_.submit(list_);
  co_return Status{};
}

Task<Status> Decoder::read_hidden(uint32_t first_row, std::span<float> out) const {
  const uint64_t at = uint64_t{first_row} * config_.hidden * sizeof(float);
  co_return co_await device_.read(*hidden_, at, std::as_writable_bytes(out));
}

Task<Status> Decoder::read_logits(uint32_t first_row, std::span<float> out) {
  const auto rows = static_cast<uint32_t>(out.size() / config_.vocab);
  write_step(all_step_, {.tokens = rows});
  co_return co_await gpu::HostCall([&](uint32_t ticket) {
    list_.reset();
    list_.begin_pass();
    all_head_[first_row / logits_rows_].record(list_, cache_, rows);
    list_.end_pass();
    list_.read(all_logits_, 0, static_cast<uint32_t>(out.size_bytes()), out.data(), ticket);
    device_.submit(list_);
  });
}

}  // namespace lapidary::model
