// The part of a session that decodes with a drafter: rounds in which the drafter guesses tokens and
// the model runs all of them at once. Each position's token is drawn from the model's logits there,
// by the random bits of that position, just as without a drafter; a guess only decides whether the
// next position has been run with the right token before it. So a reply is what it would be without
// guesses, whatever they are.
#include "engine/base/bytes.h"
#include "engine/generate/session_run.h"

namespace lapidary::generate {

void Session::use_drafter(std::unique_ptr<model::Drafter> drafter, uint32_t length) {
  drafter_ = std::move(drafter);
  draft_policy_ = DraftPolicy(length);
}

// Not where the logits of a position depend on tokens before it by more than the model (penalties,
// formats), where rows or layers come from the model's source, or where adapters change the model
// that the drafter was made for.
bool Session::may_draft(const Run& run) const {
  return drafter_ != nullptr && run.constraint == nullptr &&
         !run.options.sampling.has_penalties() && decoder_->runs_ahead() && adapters_.empty();
}

// How many tokens are guessed after the one at `position`, which has not run.
uint32_t Session::draft_length(const Run& run, uint32_t position) const {
  if (!may_draft(run) || position >= decoder_->context()) return 0;
  uint32_t most = decoder_->context() - 1 - position;
  if (run.options.max_tokens > 0) {
    const auto written = static_cast<uint32_t>(run.result.tokens.size());
    most = std::min(most, run.options.max_tokens - written - 1);
  }
  return std::min(draft_policy_.length(), most);
}

// A round of so many guesses. `position`: of the reply's last token, before and after it.
Task<Status> Session::draft(Run& run, uint32_t length, uint32_t& position) {
  CO_TRY_VOID(co_await drafter_->prepare());
  const double start = gpu::host_now();
  std::vector<model::StepRow> rows;
  for (uint32_t i = 0; i <= length; ++i) {
    CO_TRY(model::StepRow row, step_row(run, position + i));
    row.token = run.result.tokens.back();
    rows.push_back(row);
  }
  current().note_written(position + length + 1);
  std::vector<std::byte> out(decoder_->verify_bytes(rows.size()));
  gpu::HostFuture read;
  CO_TRY_VOID(co_await drafter_->run(rows, hidden_, out.data(), read.start()));
  CO_TRY_VOID(co_await read);
  const uint32_t stride = decoder_->step_stride();
  const auto guess = [&](size_t row) {
    return load<uint32_t>(std::span<const std::byte>(out),
                          rows.size() * stride + row * sizeof(uint32_t));
  };
  uint32_t accepted = 0;
  bool rejected = false;
  for (uint32_t row = 0; row <= length && !rejected && !run.ended; ++row) {
    run.verified = row;
    Result<ChosenToken> token =
        co_await choose(run, std::span<const std::byte>(out).subspan(size_t{row} * stride, stride));
    run.verified.reset();
    CO_TRY_VOID(token.transform([](const ChosenToken&) {}));
    ++position;
    hidden_ = {.verified = true, .row = row};
    if (row < length) {
      rejected = guess(row + 1) != token->id;
      if (!rejected) ++accepted;
    }
    static_cast<void>(accept(run, *token));
  }
  run.result.drafted += length;
  run.result.accepted += accepted;
  draft_policy_.note_drafted(length, accepted, rejected, gpu::host_now() - start);
  // For what is decoded without guesses.
  if (!run.ended) decoder_->set_token(run.result.tokens.back(), position);
  co_return Status{};
}

}  // namespace lapidary::generate
