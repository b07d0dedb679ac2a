// The part of the decoder that runs what a drafter guessed: tokens that follow each other in one
// sequence, through every layer at once, each as decoding computes it. The largest position is
// known, K and V of all of them are stored before any attends (decoder_record.cpp).
#include "engine/model/decoder.h"

namespace lapidary::model {

Task<Status> Decoder::prepare_verify() {
  verify_.rows = kMaxVerified;
  verify_.one_sequence = true;
  return prepare(verify_);
}

Task<Status> Decoder::verify(std::span<const StepRow> rows, const gpu::Buffer& drafted, void* out,
                             uint32_t ticket) {
  const auto count = static_cast<uint32_t>(rows.size());
  constexpr uint64_t kToken = sizeof(uint32_t);
  write_rows(verify_, rows, true);
  device_.write(verify_.s.tokens, 0, std::as_bytes(std::span(&rows[0].token, 1)));
  write_step(verify_.s.step, {.tokens = count});
  if (count > 1) list_.copy(drafted, 0, verify_.s.tokens, kToken, (count - 1) * kToken);
  CO_TRY_VOID(co_await run_rows(verify_, rows));
  list_.copy(verify_.s.tokens, 0, verify_.candidates, uint64_t{count} * step_stride(),
             count * kToken);
  list_.read(verify_.candidates, 0, verify_bytes(count), out, ticket);
  device_.submit(list_);
  co_return Status{};
}

}  // namespace lapidary::model
