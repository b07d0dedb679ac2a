// The part of a session that runs several replies at once: who joins, whose turn it is, and the
// step that gives each of them a token.
#include <algorithm>
#include <deque>

#include "engine/base/bytes.h"
#include "engine/generate/session_run.h"

namespace lapidary::generate {
namespace {

// Tokens of newcomers' prompts that run before the others' next token: what these wait for.
constexpr uint32_t kPromptPiece = 256;
// Steps that run ahead of the host, so that making one hides behind those before it.
constexpr size_t kStepsInFlight = 3;

// Errors of one run, which tell nothing about the others.
bool is_own(const Error& error) {
  return error.code == ErrorCode::kUnsupported || error.code == ErrorCode::kInvalidArgument;
}

}  // namespace

Task<void> Session::drive(const Run& own) {
  for (;;) {
    drop_cancelled();
    if (own.done) co_return;
    admit_runs();
    Status status = co_await make_room();
    if (status) leave_ended();
    const std::span<Run* const> active = scheduler_.active();
    if (status && !active.empty())
      status = co_await (active.size() == 1 ? solo(*active[0]) : step());
    if (status) {
      leave_ended();
    } else {
      fail_all(status.error());
    }
    if (own.done) co_return;
  }
}

void Session::admit_runs() {
  while (scheduler_.can_admit()) {
    std::vector<uint32_t> taken;
    for (const Run* run : scheduler_.active()) taken.push_back(run->sequence);
    Run& run = *scheduler_.admit();
    choose_sequence(run.given, run.soft, taken);
    run.sequence = current_;
    run.result.cached_tokens = reuse_prefix(run.given, run.soft);
    run.listener.on_prefill(run.result.cached_tokens, static_cast<uint32_t>(run.given.size()),
                            run.result.cached_tokens);
  }
}

// Its caller goes on at once, and the run may be gone then.
void Session::leave(Run& run) {
  scheduler_.leave(run);
  run.done = true;
  run.woken.notify();
}

void Session::drop_cancelled() {
  std::vector<Run*> gone;
  for (Run* run : scheduler_.waiting()) {
    if (run->cancelled()) gone.push_back(run);
  }
  for (Run* run : gone) {
    run->end(FinishReason::kCancelled);
    leave(*run);
  }
}

void Session::leave_ended() {
  std::vector<Run*> ended;
  for (Run* run : scheduler_.active()) {
    if (run->ended || !run->status) ended.push_back(run);
  }
  for (Run* run : ended) {
    // What a snapshot is of.
    current_ = run->sequence;
    leave(*run);
  }
}

void Session::fail_all(const Error& error) {
  forget_all();
  std::vector<Run*> all(scheduler_.active().begin(), scheduler_.active().end());
  all.insert(all.end(), scheduler_.waiting().begin(), scheduler_.waiting().end());
  for (Run* run : all) {
    run->status = std::unexpected(error);
    leave(*run);
  }
}

uint32_t Session::pending(const Run& run) const {
  return static_cast<uint32_t>(run.given.size() - sequences_[run.sequence].cached.size());
}

Task<Status> Session::solo(Run& run) {
  current_ = run.sequence;
  decoder_->use_sequence(current_);
  run.catch_up();
  run.row.reset();
  run.draws_end = 0;
  Status status = co_await decode(run);
  if (!status && is_own(status.error())) {
    sequences_[run.sequence] = {};
    run.status = std::exchange(status, Status{});
  }
  co_return status;
}

Task<Result<std::vector<Session::Run*>>> Session::read_prompts() {
  std::vector<Run*> reading;
  bool writes = false;
  for (Run* run : scheduler_.active()) {
    run->catch_up();
    if (run->cancelled()) {
      run->end(FinishReason::kCancelled);
    } else if (pending(*run) == 1) {
      writes = true;
    } else {
      reading.push_back(run);
    }
  }
  if (!reading.empty()) {
    const uint32_t most = decoder_->max_batch();
    CO_TRY_VOID(co_await step_prompts(reading, writes ? std::min(most, kPromptPiece) : most));
  }
  co_return std::move(reading);
}

void Session::tell_read(const std::vector<Run*>& reading) {
  for (Run* run : reading) {
    const auto done = static_cast<uint32_t>(sequences_[run->sequence].cached.size());
    if (run->result.tokens.empty()) {
      run->listener.on_prefill(done, static_cast<uint32_t>(run->given.size()),
                               run->result.cached_tokens);
    }
  }
}

// A prompt's last token runs as those of replies do: its logits are needed, those before it have
// none.
Task<Status> Session::step() {
  CO_TRY_VOID(co_await decoder_->prepare_steps());
  CO_TRY(const std::vector<Run*> reading, co_await read_prompts());
  std::vector<Run*> writing;
  for (Run* run : scheduler_.active()) {
    if (!run->ended && pending(*run) == 1 && writing.size() < decoder_->step_rows())
      writing.push_back(run);
  }
  const bool whole = reading.empty() && writing.size() == scheduler_.active().size();
  if (writing.empty()) {
    CO_TRY_VOID(co_await device_.sync());
  } else if (whole && std::ranges::all_of(writing, [&](Run* run) { return may_run_ahead(*run); })) {
    CO_TRY_VOID(co_await steps_ahead(writing));
  } else {
    CO_TRY_VOID(co_await step_rows(writing));
    scheduler_.rotate(writing.size());
  }
  tell_read(reading);
  co_return Status{};
}

Task<Status> Session::step_prompts(const std::vector<Run*>& reading, uint32_t room) {
  std::vector<uint32_t> lengths;
  for (const Run* run : reading) lengths.push_back(pending(*run) - 1);
  const std::vector<uint32_t> shares = share_out(lengths, room);
  std::vector<model::Prompt> batch;
  std::vector<uint32_t> all;
  // An image may take more than its share; then what does not fit waits.
  uint32_t left = decoder_->max_batch();
  for (size_t i = 0; i < reading.size(); ++i) {
    const auto at = static_cast<uint32_t>(sequences_[reading[i]->sequence].cached.size());
    const uint32_t count = piece(reading[i]->soft, at, std::min(shares[i], left));
    if (count == 0 || count > left) continue;
    left -= count;
    const auto tokens = std::span<const uint32_t>(reading[i]->given).subspan(at, count);
    batch.push_back({.sequence = reading[i]->sequence,
                     .position = at,
                     .tokens = tokens,
                     .soft = reading[i]->soft});
    all.insert(all.end(), tokens.begin(), tokens.end());
  }
  CO_TRY_VOID(co_await decoder_->provide(all, false));
  CO_TRY_VOID(co_await decoder_->prefill(batch));
  for (const auto& [index, position, tokens, rows] : batch) {
    Sequence& sequence = sequences_[index];
    sequence.cached.insert(sequence.cached.end(), tokens.begin(), tokens.end());
    sequence.note_written(static_cast<uint32_t>(sequence.cached.size()));
  }
  co_return Status{};
}

// Whether the GPU itself can go on with the token that it draws.
bool Session::may_run_ahead(const Run& run) const {
  return run.constraint == nullptr && !run.options.sampling.has_penalties() && run.cautious == 0 &&
         decoder_->runs_ahead();
}

Result<model::StepRow> Session::step_row(Run& run, uint32_t position) {
  if (!run.adjustments || run.options.sampling.has_penalties()) run.adjustments = adjustments(run);
  TRY_VOID(decoder_->check_adjustments(run.adjustments->entries.size()));
  const uint64_t bits = draw_bits(run.seed, position + 1 - run.prompt.size());
  return model::StepRow{.sequence = run.sequence,
                        .position = position,
                        .token = run.given.back(),
                        .adjustments = run.adjustments->entries,
                        .adjust = run.adjustments->params,
                        .sampling = sampling(run),
                        .draw = {static_cast<uint32_t>(bits >> 32), static_cast<uint32_t>(bits)}};
}

// The run's last token is in the cache, and `token` follows it.
void Session::take_token(Run& run, const ChosenToken& token) {
  run.catch_up();
  sequences_[run.sequence].cached.push_back(run.given.back());
  if (run.cautious > 0) --run.cautious;
  static_cast<void>(run.constraint != nullptr ? accept_allowed(run, token) : accept(run, token));
}

Task<Result<ChosenToken>> Session::choose(Run& run, std::span<const std::byte> candidates) {
  if (run.constraint != nullptr) co_return co_await choose_allowed(run, candidates);
  const uint32_t id = load<kernels::TopkHeader>(candidates, 0).chosen;
  if (id == kernels::kNoToken) {
    run.cautious = kCautious;
    co_return co_await draw_from_all_logits(run);
  }
  if (run.options.logprobs > 0) co_return with_logprobs(candidates, run.options.logprobs);
  co_return ChosenToken{.id = id};
}

Task<Status> Session::step_rows(const std::vector<Run*>& writing) {
  std::vector<Run*> runs;
  std::vector<model::StepRow> rows;
  std::vector<uint32_t> tokens;
  for (Run* run : writing) {
    const auto position = static_cast<uint32_t>(run->given.size() - 1);
    Result<model::StepRow> row = step_row(*run, position);
    if (!row) {
      run->status = std::unexpected(std::move(row).error());
      continue;
    }
    sequences_[run->sequence].note_written(position + 1);
    run->row = static_cast<uint32_t>(rows.size());
    runs.push_back(run);
    tokens.push_back(row->token);
    rows.push_back(*row);
  }
  if (rows.empty()) co_return Status{};
  CO_TRY_VOID(co_await decoder_->provide_step(tokens));
  const uint32_t stride = decoder_->step_stride();
  std::vector<std::byte> out(rows.size() * stride);
  gpu::HostFuture read;
  CO_TRY_VOID(co_await decoder_->step(rows, false, out.data(), read.start()));
  CO_TRY_VOID(co_await read);
  for (size_t r = 0; r < runs.size(); ++r) {
    Run& run = *runs[r];
    const Result<ChosenToken> token =
        co_await choose(run, std::span(out).subspan(r * stride, stride));
    if (token) {
      take_token(run, *token);
    } else if (is_own(token.error())) {
      run.status = std::unexpected(token.error());
    } else {
      co_return std::unexpected(token.error());
    }
  }
  co_return Status{};
}

// Steps of the same runs, several in flight, until one of them ends, another can join, or one needs
// the host: then its token counts as not run, and the next step runs it again, alone.
Task<Status> Session::steps_ahead(const std::vector<Run*>& runs) {
  struct Flight {
    gpu::HostFuture future;
    std::vector<std::byte> out;
  };
  const uint32_t stride = decoder_->step_stride();
  std::deque<Flight> flight;
  uint32_t steps = 0;
  std::vector<uint32_t> first;
  for (const Run* run : runs) first.push_back(static_cast<uint32_t>(run->given.size() - 1));
  // Whether each of the runs may need one more token.
  const auto has_room = [&] {
    for (size_t r = 0; r < runs.size(); ++r) {
      const uint32_t position = first[r] + steps;
      const uint64_t chosen = uint64_t{position} + 1 - runs[r]->prompt.size();
      const uint32_t most = runs[r]->options.max_tokens;
      if (position >= decoder_->context() || (most > 0 && chosen >= most)) return false;
    }
    return true;
  };
  Status status;
  bool going = true;
  for (;;) {
    while (going && flight.size() < kStepsInFlight && !scheduler_.can_admit() && has_room()) {
      std::vector<model::StepRow> rows;
      for (size_t r = 0; r < runs.size(); ++r) {
        Result<model::StepRow> row = step_row(*runs[r], first[r] + steps);
        if (!row) {
          runs[r]->status = std::unexpected(std::move(row).error());
          going = false;
          break;
        }
        rows.push_back(*row);
      }
      if (!going) break;
      for (size_t r = 0; r < runs.size(); ++r)
        sequences_[runs[r]->sequence].note_written(first[r] + steps + 1);
      Flight& next = flight.emplace_back();
      next.out.resize(rows.size() * stride);
      status = co_await decoder_->step(rows, steps > 0, next.out.data(), next.future.start());
      if (!status) {
        flight.pop_back();
        going = false;
        break;
      }
      ++steps;
    }
    if (flight.empty()) break;
    const Status read = co_await flight.front().future;
    if (!read && status) status = read;
    if (!status) going = false;
    for (size_t r = 0; r < runs.size() && status; ++r) {
      Run& run = *runs[r];
      if (run.ended || run.cautious > 0) continue;
      const auto bytes = std::span(flight.front().out).subspan(r * stride, stride);
      const uint32_t id = load<kernels::TopkHeader>(bytes, 0).chosen;
      if (id == kernels::kNoToken) {
        run.cautious = kCautious;
      } else if (run.options.logprobs > 0) {
        take_token(run, with_logprobs(bytes, run.options.logprobs));
      } else {
        take_token(run, {.id = id});
      }
      if (run.ended || run.cautious > 0) going = false;
    }
    flight.pop_front();
    drop_cancelled();
  }
  co_return status;
}

}  // namespace lapidary::generate
