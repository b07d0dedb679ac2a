// The part of the decoder for images whose tokens see each other both ways in sliding layers
// (gemma4.md §4.5): a token's K and V depend on the whole image, so all of it runs in one batch.
#include <algorithm>

#include "engine/model/decoder.h"

namespace lapidary::model {

// A ring holds the window before a batch, and the batch.
uint32_t Decoder::most_image_tokens() const {
  return ring_slots_ < options_.context ? ring_slots_ - config_.window + 1 : options_.context;
}

Task<Status> Decoder::reserve_batch(uint32_t tokens) {
  const uint32_t before = options_.max_batch;
  if (tokens <= before) co_return Status{};
  const uint64_t scratch = scratch_bytes_;
  Scratch other;
  options_.max_batch = tokens;
  Status status = allocate_batch(other, tokens);
  const uint64_t bytes = scratch_bytes_ - scratch;
  scratch_bytes_ = scratch;
  if (status) {
    std::swap(batch_, other);
    status = co_await record_anew();
    if (status) {
      scratch_bytes_ += bytes - batch_bytes_;
      batch_bytes_ = bytes;
      co_return Status{};
    }
    std::swap(batch_, other);
  }
  options_.max_batch = before;
  cache_.forget_added();
  // Of what failed the device may have more to report: that is not this attempt's.
  static_cast<void>(co_await device_.sync());
  CO_TRY_VOID(co_await record_anew());
  co_return status;
}

// The last position that each token of a batch sees in sliding layers.
void Decoder::write_last_seen(std::span<const Prompt> prompts) {
  std::vector<uint32_t> last;
  for (const Prompt& prompt : prompts) {
    const size_t first = last.size();
    const auto size = static_cast<uint32_t>(prompt.tokens.size());
    for (uint32_t i = 0; i < size; ++i) last.push_back(prompt.position + i);
    for (const SoftRows& soft : prompt.soft) {
      if (soft.kind != SoftKind::kImage || soft.position < prompt.position ||
          soft.end() > prompt.position + size)
        continue;
      std::fill_n(last.begin() + static_cast<ptrdiff_t>(first + soft.position - prompt.position),
                  soft.rows, soft.end() - 1);
    }
  }
  device_.write(batch_.last_seen, 0, std::as_bytes(std::span(last)));
}

}  // namespace lapidary::model
