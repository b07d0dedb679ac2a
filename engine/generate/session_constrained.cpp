// The decode loop of a reply that must have a format: one token at a time, drawn on the CPU.
#include <algorithm>
#include <cmath>

#include "engine/base/bytes.h"
#include "engine/generate/session_run.h"

namespace lapidary::generate {

// The distribution is the model's, restricted to what is allowed; cuts and temperature come after.
// Mostly the GPU's candidates, the largest of all logits, decide; else all logits are read.
Task<Result<uint32_t>> Session::draw_allowed(const Run& run, std::span<const std::byte> candidates,
                                             float* logit) {
  const SamplingOptions& sampling = run.options.sampling;
  const uint64_t bits = draw_bits(run.seed, run.result.tokens.size());
  std::vector<Candidate> allowed;
  const auto add = [&](uint32_t id, float value) {
    if (run.constraint->allows(id)) allowed.push_back({id, value});
  };
  const auto draw = [&] {
    const uint32_t id = draw_token(sampling, allowed, bits);
    *logit = std::ranges::find(allowed, id, &Candidate::id)->logit;
    return id;
  };
  const auto count = load<kernels::TopkHeader>(candidates, 0).count;
  float floor = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const auto pair = load<kernels::TopkPair>(
        candidates, sizeof(kernels::TopkHeader) + i * sizeof(kernels::TopkPair));
    add(pair.id, pair.logit);
    floor = pair.logit;
  }
  if (candidates_decide(sampling, allowed, floor)) co_return draw();

  std::vector<float> logits(vocab_);
  CO_TRY_VOID(co_await read_logits_of(run, logits));
  allowed.clear();
  for (uint32_t id = 0; id < vocab_; ++id) add(id, std::isnan(logits[id]) ? -3.4e38f : logits[id]);
  if (allowed.empty()) {
    co_return fail(ErrorCode::kUnsupported,
                   "format: the schema is too ambiguous to be followed. Give the alternatives of "
                   "its anyOf different beginnings");
  }
  std::ranges::sort(allowed, is_likelier);
  co_return draw();
}

Task<Result<ChosenToken>> Session::choose_allowed(const Run& run,
                                                  std::span<const std::byte> candidates) {
  ChosenToken token;
  if (run.options.logprobs > 0) token = with_logprobs(candidates, run.options.logprobs);
  float logit = 0;
  CO_TRY(token.id, co_await draw_allowed(run, candidates, &logit));
  token.logprob = logit - load<kernels::TopkHeader>(candidates, 0).log_sum_exp;
  co_return token;
}

// As accept(); a reply that is whole ends, also where it would have been cut.
bool Session::accept_allowed(Run& run, const ChosenToken& token) {
  run.constraint->accept(token.id);
  const bool going = accept(run, token);
  const bool cut =
      run.result.reason == FinishReason::kLength || run.result.reason == FinishReason::kContext;
  if (run.constraint->finished() && (going || cut)) run.end(FinishReason::kStop);
  return !run.ended;
}

Task<Status> Session::decode_constrained(Run& run) {
  const bool penalties = run.options.sampling.has_penalties();
  CO_TRY(uint32_t adjustments, write_adjustments(run));
  decoder_->set_sampling(sampling(run));
  std::vector<std::byte> candidates(decoder_->candidate_bytes());
  gpu::HostFuture future;
  const auto readback = [&](uint32_t position) {
    write_draws(run, position);
    return model::Readback{.choose = model::Choose::kSampleTopk,
                           .adjust_entries = adjustments,
                           .address = candidates.data(),
                           .ticket = future.start()};
  };
  auto position = static_cast<uint32_t>(run.given.size());  // of the next token to run
  bool prompted = false;
  CO_TRY_VOID(co_await run_prompt(run, [&] {
    prompted = true;
    return readback(position - 1);
  }));
  // Cancelled before the last batch has run, or another joins.
  if (!prompted || run.ended) co_return Status{};
  for (;;) {
    CO_TRY_VOID(co_await future);
    CO_TRY(const ChosenToken token, co_await choose_allowed(run, candidates));
    drop_cancelled();
    if (!accept_allowed(run, token) || scheduler_.can_admit()) break;
    if (penalties) {
      CO_TRY(adjustments, write_adjustments(run));
    }
    CO_TRY_VOID(co_await provide(run, std::span(run.result.tokens).last(1), true));
    if (run.ended) break;
    decoder_->set_token(token.id, position);
    CO_TRY_VOID(given_up(run, co_await decoder_->decode(position, readback(position))));
    if (run.ended) break;
    current().note_written(++position);
  }
  keep(run, position);
  co_return Status{};
}

}  // namespace lapidary::generate
