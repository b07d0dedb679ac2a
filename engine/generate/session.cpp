#include "engine/generate/session.h"

#include <algorithm>
#include <deque>

#include "engine/base/text.h"
#include "engine/generate/session_run.h"

namespace lapidary::generate {

using model::Choose;
using model::Readback;

namespace {

// Tokens that run ahead of the host, so that the wait for one hides behind the next: three; on a
// fast GPU as many as take kAheadMs, for the host is now and then late by some milliseconds. More
// would be lost work after a token that ends the reply.
constexpr size_t kInFlight = 3;
constexpr size_t kMostInFlight = 6;
constexpr double kAheadMs = 15;

size_t in_flight(size_t tokens, double ms) {
  const double fit = tokens > 8 ? kAheadMs * static_cast<double>(tokens) / ms : 0;
  return static_cast<size_t>(std::clamp<double>(fit, kInFlight, kMostInFlight));
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
    case FinishReason::kStopString:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kContext:
      return "context";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "stop";
}

Status Session::check_prompt(const std::vector<uint32_t>& prompt, const SoftSpans& soft) const {
  if (prompt.empty()) return fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  TRY_VOID(check_soft(prompt, soft));
  auto span = soft.begin();
  for (size_t at = 0; at < prompt.size(); ++at) {
    while (span != soft.end() && span->end() <= at) ++span;
    if (span != soft.end() && span->position <= at) continue;
    if (prompt[at] >= vocab_) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("token id ", prompt[at], " is outside the vocabulary of ", vocab_));
    }
  }
  return {};
}

Status Session::check_room(const std::vector<uint32_t>& prompt) const {
  if (prompt.size() < decoder_->context()) return {};
  return fail(
      ErrorCode::kContextOverflow,
      cat("the prompt has ", prompt.size(), " tokens; the context of ", decoder_->context(),
          " leaves no room for an answer. Shorten it, or load the model with a longer context"));
}

Status Session::check_idle() const {
  if (!busy_ && scheduler_.empty()) return {};
  return fail(ErrorCode::kBusy, "this session is answering another request");
}

Status Session::truncate(uint32_t length) {
  TRY_VOID(check_idle());
  for (Sequence& sequence : sequences_)
    sequence.cached.resize(whole_images(sequence.cached, length));
  return {};
}

Task<Status> Session::set_adapters(std::span<const model::ActiveAdapter> active, std::string key) {
  CO_TRY_VOID(check_idle());
  busy_ = true;
  Status status = co_await decoder_->set_adapters(active);
  busy_ = false;
  if (status) adapters_ = std::move(key);
  co_return status;
}

uint32_t Session::common_prefix(const Sequence& sequence, const std::vector<uint32_t>& prompt,
                                const SoftSpans& soft) const {
  if (sequence.adapters != adapters_) return 0;
  const std::vector<uint32_t>& cached = sequence.cached;
  const auto limit = static_cast<std::ptrdiff_t>(std::min(cached.size(), prompt.size() - 1));
  const auto end = std::mismatch(cached.begin(), cached.begin() + limit, prompt.begin()).first;
  return whole_images(cached, static_cast<uint32_t>(end - cached.begin()), soft);
}

// A prompt goes on from the sequence with which it has most in common; unless it would take another
// turn there and more would be lost than kept (a conversation that shares but its system prompt
// with this one): then the sequence unused for longest gives way. A prompt that ends within a
// sequence takes it: its reply is to be written anew.
void Session::choose_sequence(const std::vector<uint32_t>& prompt, const SoftSpans& soft,
                              std::span<const uint32_t> taken) {
  uint32_t best = UINT32_MAX;
  uint32_t oldest = UINT32_MAX;
  uint32_t most = 0;
  for (uint32_t s = 0; s < sequences_.size(); ++s) {
    if (std::ranges::contains(taken, s)) continue;
    const std::vector<uint32_t>& cached = sequences_[s].cached;
    const uint32_t common = common_prefix(sequences_[s], prompt, soft);
    const bool rewound = common + 1 == prompt.size();
    if (common > most && (rewound || 2 * common >= cached.size())) {
      best = s;
      most = common;
    }
    if (oldest == UINT32_MAX || sequences_[s].used < sequences_[oldest].used) oldest = s;
  }
  current_ = best != UINT32_MAX ? best : oldest;
  current().used = ++clock_;
  decoder_->use_sequence(current_);
}

uint32_t Session::reuse_prefix(const std::vector<uint32_t>& prompt, const SoftSpans& soft) {
  Sequence& sequence = current();
  uint32_t common = common_prefix(sequence, prompt, soft);
  sequence.adapters = adapters_;
  // Sliding layers keep a ring. The window before the first new token must be whole, or the prompt
  // runs anew.
  const uint32_t window = decoder_->window();
  const uint32_t needed = common + 1 > window ? common + 1 - window : 0;
  if (window > 0 && needed < oldest_position(sequence)) common = 0;
  if (common == 0) sequence.high_water = sequence.floor = 0;
  sequence.cached.resize(common);
  return common;
}

Status Session::given_up(Run& run, Status status) {
  if (status || !run.cancelled()) return status;
  run.end(FinishReason::kCancelled);
  return {};
}

Task<Status> Session::provide(Run& run, std::span<const uint32_t> tokens, bool last) {
  co_return given_up(run, co_await decoder_->provide(tokens, last));
}

Task<Status> Session::run_prompt(Run& run, const std::function<Readback()>& readback) {
  const auto from = static_cast<uint32_t>(current().cached.size());
  const auto total = static_cast<uint32_t>(run.given.size());
  const std::span<const uint32_t> tokens(run.given);
  const auto count_from = [&](uint32_t at) {
    return piece(run.soft, at, std::min(decoder_->max_batch(), total - at));
  };
  const auto provide_batch = [&](uint32_t at) {
    const uint32_t count = count_from(at);
    return provide(run, tokens.subspan(at, count), at + count == total);
  };
  CO_TRY_VOID(co_await provide_batch(from));
  for (uint32_t at = from; at < total;) {
    if (run.ended) co_return Status{};
    const uint32_t count = count_from(at);
    const bool last = at + count == total;
    CO_TRY_VOID(
        given_up(run, co_await decoder_->prefill(tokens.subspan(at, count), at, last,
                                                 last ? readback() : Readback{}, run.soft)));
    if (run.ended) co_return Status{};
    at += count;
    current().note_written(at);
    current().cached.assign(run.given.begin(), run.given.begin() + at);
    if (last) break;
    // While the GPU computes this batch, the rows of the next one are read.
    CO_TRY_VOID(co_await provide_batch(at));
    CO_TRY_VOID(co_await device_.sync());
    run.listener.on_prefill(at, total, run.result.cached_tokens);
    if (run.cancelled()) run.end(FinishReason::kCancelled);
    if (run.ended || scheduler_.can_admit()) co_return Status{};
  }
  co_return Status{};
}

// Adds a token to the reply; true when the run goes on.
bool Session::accept(Run& run, const ChosenToken& token) {
  if (run.result.tokens.empty()) {
    run.first_token = gpu::host_now();
    const auto total = static_cast<uint32_t>(run.prompt.size());
    run.listener.on_prefill(total, total, run.result.cached_tokens);
  }
  run.result.tokens.push_back(token.id);
  const auto end = [&](FinishReason reason) {
    run.end(reason);
    return false;
  };
  if (!run.options.ignore_eos && tokenizer_.is_end_of_generation(token.id))
    return end(FinishReason::kStop);
  if (!run.listener.on_token(token)) return end(FinishReason::kStopString);
  if (run.options.max_tokens > 0 && run.result.tokens.size() >= run.options.max_tokens) {
    return end(FinishReason::kLength);
  }
  if (run.next_position() >= decoder_->context()) return end(FinishReason::kContext);
  if (run.cancelled()) return end(FinishReason::kCancelled);
  return true;
}

// Tokens of the reply that were run; those that ran past its end do not count.
void Session::keep(const Run& run, uint32_t position) {
  std::vector<uint32_t>& cached = current().cached;
  const size_t ran = std::min(position - run.prompt.size(), run.result.tokens.size());
  const size_t held = cached.size() - run.prompt.size();
  cached.insert(cached.end(), run.result.tokens.begin() + static_cast<long>(held),
                run.result.tokens.begin() + static_cast<long>(ran));
}

// The GPU chooses and feeds itself, and several tokens are in flight, unless the logits of the next
// token depend on the choice of this one, or the host must fetch the chosen one's row.
Task<Status> Session::decode(Run& run) {
  struct Pending {
    gpu::HostFuture future;
    uint32_t token = 0;
    std::vector<std::byte> candidates;
  };
  if (run.constraint != nullptr) co_return co_await decode_constrained(run);
  const bool penalties = run.options.sampling.has_penalties();
  const bool logprobs = run.options.logprobs > 0;
  const Choose choose = logprobs                        ? Choose::kSampleTopk
                        : run.options.sampling.greedy() ? Choose::kArgmax
                                                        : Choose::kSample;
  CO_TRY(uint32_t adjustments, write_adjustments(run));
  if (choose != Choose::kArgmax) decoder_->set_sampling(sampling(run));
  std::deque<Pending> flight;
  const auto readback = [&](uint32_t position) {
    if (choose != Choose::kArgmax) write_draws(run, position);
    Pending& pending = flight.emplace_back();
    if (logprobs) pending.candidates.resize(decoder_->candidate_bytes());
    void* const address = logprobs ? static_cast<void*>(pending.candidates.data()) : &pending.token;
    return Readback{.choose = choose,
                    .adjust_entries = adjustments,
                    .address = address,
                    .ticket = pending.future.start()};
  };
  // The choice of the oldest submission.
  const auto take = [&]() -> Task<Result<ChosenToken>> {
    Pending& pending = flight.front();
    const Status read = co_await pending.future;
    const ChosenToken token = logprobs && read
                                  ? with_logprobs(pending.candidates, run.options.logprobs)
                                  : ChosenToken{.id = pending.token};
    flight.pop_front();
    CO_TRY_VOID(read);
    co_return token;
  };

  const auto prompt_size = static_cast<uint32_t>(run.prompt.size());
  const auto given_size = static_cast<uint32_t>(run.given.size());
  CO_TRY_VOID(co_await run_prompt(run, [&] { return readback(given_size - 1); }));
  // Cancelled before the last batch has run, or another joins.
  if (run.ended || flight.empty()) co_return Status{};
  uint32_t position = given_size;  // of the next decode to submit
  uint32_t cautious = 0;
  Status status;
  bool going = true;
  double last_plain = 0;  // when the last token came that was not guessed; 0: that one was
  hidden_ = {};
  for (;;) {
    // With guesses to make nothing runs ahead of the host.
    const uint32_t guesses = going ? draft_length(run, position) : 0;
    if (guesses > 0 && flight.empty() && !scheduler_.can_admit()) {
      status = co_await draft(run, guesses, position);
      going = status && !run.ended;
      last_plain = 0;
      drop_cancelled();
      continue;
    }
    const bool alone = penalties || cautious > 0 || !decoder_->runs_ahead();
    const size_t depth =
        alone ? 1 : in_flight(run.result.tokens.size(), gpu::host_now() - run.first_token);
    while (going && guesses == 0 && !scheduler_.can_admit() && flight.size() < depth &&
           position < decoder_->context() &&
           (run.options.max_tokens == 0 || position - prompt_size + 1 < run.options.max_tokens)) {
      if (penalties) {
        CO_TRY(adjustments, write_adjustments(run));
      }
      if (decoder_->rows_in_source()) {
        // Nothing is in flight here, and the token to run is the last of the reply.
        CO_TRY_VOID(co_await provide(run, std::span(run.result.tokens).last(1), true));
        if (run.ended) break;
      }
      status = given_up(run, co_await decoder_->decode(position, readback(position)));
      if (!status || run.ended) {
        flight.pop_back();
        going = false;
        break;
      }
      hidden_ = {};
      current().note_written(++position);
    }
    if (flight.empty()) break;  // also where a cancelled run waited for a row
    Result<ChosenToken> token = co_await take();
    if (token && going && token->id == kernels::kNoToken) {
      // Nothing that ran after this token counts; if something did, its logits are gone and are
      // made again.
      const uint32_t last = run.next_position() - 1;
      const bool overtaken = !flight.empty();
      while (token && !flight.empty()) token = co_await take();
      if (token && overtaken) {
        decoder_->set_token(
            run.result.tokens.empty() ? run.prompt.back() : run.result.tokens.back(), last);
        CO_TRY_VOID(co_await decoder_->decode(last, readback(last)));
        token = co_await take();
      }
      if (token) token = co_await draw_from_all_logits(run);
      if (token) decoder_->set_token(token->id, last + 1);
      position = last + 1;
      cautious = kCautious;
    } else if (cautious > 0) {
      --cautious;
    }
    if (!token && status) status = std::unexpected(token.error());
    if (!status) going = false;
    if (going) {
      const double now = gpu::host_now();
      draft_policy_.note_plain(last_plain > 0 ? now - last_plain : 0);
      last_plain = now;
      going = accept(run, *token);
    }
    drop_cancelled();
  }
  CO_TRY_VOID(std::move(status));
  keep(run, position);
  co_return Status{};
}

Task<Result<RunResult>> Session::run(std::vector<uint32_t> prompt, const GenerateOptions& options,
                                     uint64_t seed, Listener& listener,
                                     std::function<bool()> cancelled, Constraint* constraint,
                                     std::vector<uint32_t> written, SoftSpans soft) {
  if (busy_) co_return fail(ErrorCode::kBusy, "this session is answering another request");
  CO_TRY_VOID(check_prompt(prompt, soft));
  std::vector<uint32_t> given = prompt;
  given.insert(given.end(), written.begin(), written.end());
  CO_TRY_VOID(check_prompt(given, soft));
  CO_TRY_VOID(check_room(prompt));
  Run run{.prompt = std::move(prompt),
          .given = std::move(given),
          .options = options,
          .seed = seed,
          .listener = listener,
          .constraint = constraint,
          .cancelled = std::move(cancelled),
          .soft = std::move(soft)};
  run.start = gpu::host_now();
  run.result.prompt_tokens = static_cast<uint32_t>(run.prompt.size());
  // What was written may have ended the reply already, at its last token.
  bool going = true;
  for (size_t i = 0; going && i < written.size(); ++i) {
    ChosenToken token{.id = written[i]};
    // Its event, where there is one, comes again in its place; what was in it is not known here.
    if (options.logprobs > 0) token.top.push_back({token.id, 0});
    if (constraint != nullptr && !constraint->allows(token.id))
      co_return fail(ErrorCode::kInvalidArgument, "what was written is not of the format");
    going = constraint != nullptr ? accept_allowed(run, token) : accept(run, token);
  }
  if (going) {
    scheduler_.arrive(run);
    while (!run.done) {
      if (driven_) {
        co_await run.woken;
      } else {
        driven_ = true;
        co_await drive(run);
        driven_ = false;
      }
    }
    // Another one drives the others on.
    if (!driven_ && !scheduler_.empty()) {
      Run* const next =
          scheduler_.active().empty() ? scheduler_.waiting().front() : scheduler_.active().front();
      next->woken.notify();
    }
  }
  if (!run.status) co_return std::unexpected(std::move(run.status).error());
  const double end = gpu::host_now();
  if (run.result.tokens.empty()) run.first_token = end;
  run.result.prefill_ms = run.first_token - run.start;
  run.result.decode_ms = end - run.first_token;
  co_return std::move(run.result);
}

Task<Status> Session::prefill_all(const std::vector<std::vector<uint32_t>>& prompts,
                                  const std::vector<SoftSpans>& soft,
                                  std::vector<Prefilled>& results,
                                  const std::function<bool()>& cancelled) {
  std::vector<uint32_t> taken;
  for (size_t p = 0; p < prompts.size(); ++p) {
    CO_TRY_VOID(co_await reserve(soft[p]));
    choose_sequence(prompts[p], soft[p], taken);
    taken.push_back(current_);
    results.push_back({.prompt_tokens = static_cast<uint32_t>(prompts[p].size()),
                       .cached_tokens = reuse_prefix(prompts[p], soft[p])});
  }
  for (size_t p = 0; p < prompts.size() && !cancelled();) {
    std::vector<model::Prompt> batch;
    std::vector<uint32_t> all;
    uint32_t room = decoder_->max_batch();
    for (; p < prompts.size() && room > 0; ++p) {
      const std::vector<uint32_t>& prompt = prompts[p];
      const auto at = static_cast<uint32_t>(sequences_[taken[p]].cached.size());
      const auto left = static_cast<uint32_t>(prompt.size()) - at;
      const uint32_t count = piece(soft[p], at, std::min(room, left));
      if (count > room) break;
      const std::span tokens = std::span(prompt).subspan(at, count);
      batch.push_back({.sequence = taken[p], .position = at, .tokens = tokens, .soft = soft[p]});
      all.insert(all.end(), tokens.begin(), tokens.end());
      room -= static_cast<uint32_t>(tokens.size());
      if (at + tokens.size() < prompt.size()) break;  // the rest is the next batch's
    }
    Status provided = co_await decoder_->provide(all, false);
    if (!provided && cancelled()) break;  // a read that was given up
    CO_TRY_VOID(std::move(provided));
    Status ran = co_await decoder_->prefill(batch);
    if (!ran && cancelled()) break;
    CO_TRY_VOID(std::move(ran));
    for (const auto& [sequence, position, tokens, rows] : batch) {
      Sequence& written = sequences_[sequence];
      written.cached.insert(written.cached.end(), tokens.begin(), tokens.end());
      written.note_written(static_cast<uint32_t>(written.cached.size()));
    }
    CO_TRY_VOID(co_await device_.sync());
  }
  co_return Status{};
}

Task<Result<std::vector<Prefilled>>> Session::prefill(std::vector<std::vector<uint32_t>> prompts,
                                                      std::function<bool()> cancelled,
                                                      std::vector<SoftSpans> soft) {
  CO_TRY_VOID(check_idle());
  soft.resize(prompts.size());
  if (prompts.size() > sequences_.size()) {
    co_return fail(ErrorCode::kInvalidArgument,
                   cat(prompts.size(), " prompts; the model was loaded for ", sequences_.size(),
                       " at once. Load it with more sessions"));
  }
  for (size_t p = 0; p < prompts.size(); ++p) {
    CO_TRY_VOID(check_prompt(prompts[p], soft[p]));
    CO_TRY_VOID(check_room(prompts[p]));
  }
  busy_ = true;
  std::vector<Prefilled> results;
  Status status = co_await prefill_all(prompts, soft, results, cancelled);
  busy_ = false;
  if (!status) {
    forget_all();
    co_return std::unexpected(std::move(status).error());
  }
  co_return results;
}

Task<Result<std::vector<float>>> Session::logits(std::vector<uint32_t> tokens, bool all,
                                                 SoftSpans soft) {
  CO_TRY_VOID(check_idle());
  CO_TRY_VOID(check_prompt(tokens, soft));
  if (tokens.size() > decoder_->context()) {
    co_return fail(ErrorCode::kContextOverflow,
                   cat(tokens.size(), " tokens do not fit the context of ", decoder_->context()));
  }
  busy_ = true;
  const auto total = static_cast<uint32_t>(tokens.size());
  std::vector<float> out(size_t{all ? total : 1} * vocab_);
  choose_sequence(tokens, soft);
  Status status = co_await reserve(soft);
  const auto count_from = [&](uint32_t at) {
    return piece(soft, at, std::min(decoder_->max_batch(), total - at));
  };
  if (status && all) {
    current() = {.adapters = adapters_, .used = clock_};
    status = co_await decoder_->prepare_all_positions();
    const uint32_t rows = decoder_->logits_rows();
    for (uint32_t at = 0, count = 0; status && at < total; at += count) {
      count = count_from(at);
      const auto batch = std::span(tokens).subspan(at, count);
      status = co_await decoder_->provide(batch, false);
      if (!status) break;
      const model::Prompt prompt{
          .sequence = current_, .position = at, .tokens = batch, .soft = soft};
      status = co_await decoder_->run_all_layers({&prompt, 1});
      for (uint32_t row = 0; status && row < count; row += rows) {
        const uint32_t block = std::min(rows, count - row);
        status = co_await decoder_->read_logits(
            row, std::span(out).subspan(size_t{at + row} * vocab_, size_t{block} * vocab_));
      }
    }
  } else if (status) {
    uint32_t at = reuse_prefix(tokens, soft);
    for (; status && at < total;) {
      const uint32_t count = count_from(at);
      const bool last = at + count == total;
      const auto batch = std::span(tokens).subspan(at, count);
      status = co_await decoder_->provide(batch, last);
      if (!status) break;
      gpu::HostFuture read;
      Readback readback;
      if (last)
        readback = {.choose = Choose::kLogits, .address = out.data(), .ticket = read.start()};
      status = co_await decoder_->prefill(batch, at, last, readback, soft);
      if (status && last) status = co_await read;
      at += count;
    }
  }
  if (status) status = co_await device_.sync();
  busy_ = false;
  if (!status) {
    forget_all();
    co_return std::unexpected(std::move(status).error());
  }
  current().cached = std::move(tokens);
  current().note_written(total);
  co_return out;
}

}  // namespace lapidary::generate
