#include "engine/generate/session.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <unordered_map>

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

// After a token that the GPU could not draw so many run one by one: the next ones will likely need
// the host too, and what ran ahead would be lost.
constexpr uint32_t kCautious = 16;
// Draws are written in blocks; two fit the ring, so that none in flight is overwritten.
constexpr uint32_t kDrawBlock = kernels::kDrawSlots / 2;

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

// A reply's log probabilities from what the GPU read back.
ChosenToken with_logprobs(std::span<const std::byte> bytes, uint32_t alternatives) {
  const auto header = load<kernels::TopkHeader>(bytes, 0);
  ChosenToken token{.id = header.chosen, .logprob = header.chosen_logit - header.log_sum_exp};
  for (uint32_t i = 0; i < std::min(alternatives, header.count); ++i) {
    const auto pair =
        load<kernels::TopkPair>(bytes, sizeof(kernels::TopkHeader) + i * sizeof(kernels::TopkPair));
    token.top.push_back({pair.id, pair.logit - header.log_sum_exp});
  }
  return token;
}

Status Session::check_prompt(const std::vector<uint32_t>& prompt) const {
  if (prompt.empty()) return fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  for (const uint32_t id : prompt) {
    if (id >= vocab_) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("token id ", id, " is outside the vocabulary of ", vocab_));
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

void Session::truncate(uint32_t length) {
  for (Sequence& sequence : sequences_)
    if (length < sequence.cached.size()) sequence.cached.resize(length);
}

Task<Status> Session::set_adapters(std::span<const model::ActiveAdapter> active, std::string key) {
  if (busy_) co_return fail(ErrorCode::kBusy, "this session is answering another request");
  busy_ = true;
  Status status = co_await decoder_->set_adapters(active);
  busy_ = false;
  if (status) adapters_ = std::move(key);
  co_return status;
}

uint32_t Session::common_prefix(const Sequence& sequence,
                                const std::vector<uint32_t>& prompt) const {
  if (sequence.adapters != adapters_) return 0;
  const std::vector<uint32_t>& cached = sequence.cached;
  const auto limit = static_cast<std::ptrdiff_t>(std::min(cached.size(), prompt.size() - 1));
  const auto end = std::mismatch(cached.begin(), cached.begin() + limit, prompt.begin()).first;
  return static_cast<uint32_t>(end - cached.begin());
}

// A prompt goes on from the sequence with which it has most in common; unless it would take another
// turn there and more would be lost than kept (a conversation that shares but its system prompt
// with this one): then the sequence unused for longest gives way. A prompt that ends within a
// sequence takes it: its reply is to be written anew.
void Session::choose_sequence(const std::vector<uint32_t>& prompt,
                              std::span<const uint32_t> taken) {
  uint32_t best = UINT32_MAX;
  uint32_t oldest = UINT32_MAX;
  uint32_t most = 0;
  for (uint32_t s = 0; s < sequences_.size(); ++s) {
    if (std::ranges::contains(taken, s)) continue;
    const std::vector<uint32_t>& cached = sequences_[s].cached;
    const uint32_t common = common_prefix(sequences_[s], prompt);
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

uint32_t Session::reuse_prefix(const std::vector<uint32_t>& prompt) {
  Sequence& sequence = current();
  uint32_t common = common_prefix(sequence, prompt);
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

Task<Status> Session::provide(Run& run, std::span<const uint32_t> tokens, bool last) {
  Status status = co_await decoder_->provide(tokens, last);
  if (!status && run.cancelled()) {
    run.ended = true;
    run.result.reason = FinishReason::kCancelled;
    co_return Status{};
  }
  co_return status;
}

Task<Status> Session::run_prompt(Run& run, uint32_t from,
                                 const std::function<Readback()>& readback) {
  const auto total = static_cast<uint32_t>(run.given.size());
  const std::span<const uint32_t> tokens(run.given);
  const auto provide_batch = [&](uint32_t at) {
    const uint32_t count = std::min(decoder_->max_batch(), total - at);
    return provide(run, tokens.subspan(at, count), at + count == total);
  };
  CO_TRY_VOID(co_await provide_batch(from));
  for (uint32_t at = from; at < total;) {
    if (run.ended) co_return Status{};
    const uint32_t count = std::min(decoder_->max_batch(), total - at);
    const bool last = at + count == total;
    decoder_->prefill(tokens.subspan(at, count), at, last, last ? readback() : Readback{});
    at += count;
    current().note_written(at);
    current().cached.assign(run.given.begin(), run.given.begin() + at);
    if (last) break;
    // While the GPU computes this batch, the rows of the next one are read.
    CO_TRY_VOID(co_await provide_batch(at));
    CO_TRY_VOID(co_await device_.sync());
    run.listener.on_prefill(at, total, from);
    if (run.cancelled()) {
      run.ended = true;
      run.result.reason = FinishReason::kCancelled;
      co_return Status{};
    }
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
    run.ended = true;
    run.result.reason = reason;
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

Result<uint32_t> Session::write_adjustments(const Run& run) {
  const SamplingOptions& sampling = run.options.sampling;
  std::unordered_map<uint32_t, kernels::AdjustEntry> entries;
  const auto entry = [&](uint32_t id) -> kernels::AdjustEntry& {
    kernels::AdjustEntry& e = entries[id];
    e.id = id;
    return e;
  };
  for (const auto& [id, bias] : sampling.logit_bias) entry(id).bias += bias;
  for (const uint32_t id : suppress_tokens_) entry(id).bias = kernels::kSuppressed;
  if (sampling.has_penalties()) {
    const size_t total = run.prompt.size() + run.result.tokens.size();
    const size_t window = std::min<size_t>(sampling.repeat_last_n, total);
    for (size_t i = total - window; i < total; ++i) {
      entry(i < run.prompt.size() ? run.prompt[i] : run.result.tokens[i - run.prompt.size()])
          .count += 1;
    }
  }
  if (entries.empty()) return 0;
  std::vector<kernels::AdjustEntry> list;
  for (const auto& [id, e] : entries) list.push_back(e);
  const kernels::AdjustParams params{.entries = static_cast<uint32_t>(list.size()),
                                     .repeat_penalty = sampling.repeat_penalty,
                                     .presence_penalty = sampling.presence_penalty,
                                     .frequency_penalty = sampling.frequency_penalty};
  TRY_VOID(decoder_->set_adjustments(list, params));
  return params.entries;
}

void Session::write_sampling(const Run& run) {
  const SamplingOptions& sampling = run.options.sampling;
  kernels::SampleParams params{.top_k = 1};
  if (!sampling.greedy()) {
    params = {.temperature = sampling.temperature,
              .top_k = sampling.top_k,
              .top_p = sampling.top_p,
              .min_p = sampling.min_p};
  }
  const bool cut = params.top_p < 1.0f || params.min_p > 0.0f;
  params.want = params.top_k > 0 ? params.top_k : cut ? kernels::kMaxTopK : 1;
  params.want = std::max(params.want, run.options.logprobs);
  decoder_->set_sampling(params);
}

// Sees to it that the submission at `position` finds its random bits.
void Session::write_draws(Run& run, uint32_t position) {
  const auto first = static_cast<uint32_t>(run.prompt.size() - 1);
  if (run.draws_end == 0) run.draws_end = first / kDrawBlock * kDrawBlock;
  for (; run.draws_end <= position; run.draws_end += kDrawBlock) {
    std::vector<kernels::Draw> block(kDrawBlock);
    for (uint32_t i = 0; i < kDrawBlock; ++i) {
      const uint64_t bits = draw_bits(run.seed, uint64_t{run.draws_end} + i - first);
      block[i] = {static_cast<uint32_t>(bits >> 32), static_cast<uint32_t>(bits)};
    }
    decoder_->set_draws(run.draws_end, block);
  }
}

// The next token of the reply from the logits of the last submission, all of which are read: for
// cuts that the largest logits alone do not decide (top_p or min_p that leaves more of them, or a
// larger top_k).
Task<Result<ChosenToken>> Session::draw_from_all_logits(const Run& run) {
  std::vector<float> logits(vocab_);
  CO_TRY_VOID(co_await decoder_->read_last_logits(logits));
  std::vector<Candidate> all(vocab_);
  for (uint32_t i = 0; i < vocab_; ++i) all[i] = {i, std::isnan(logits[i]) ? -3.4e38f : logits[i]};
  std::ranges::sort(all, is_likelier);
  ChosenToken token{
      .id = draw_token(run.options.sampling, all, draw_bits(run.seed, run.result.tokens.size()))};
  if (run.options.logprobs > 0) {
    double sum = 0;
    for (const Candidate& c : all) sum += std::exp(double{c.logit} - all[0].logit);
    const auto log_sum_exp = static_cast<float>(all[0].logit + std::log(sum));
    token.logprob = logits[token.id] - log_sum_exp;
    for (const Candidate& c : std::span(all).first(std::min(run.options.logprobs, vocab_)))
      token.top.push_back({c.id, c.logit - log_sum_exp});
  }
  co_return token;
}

// Tokens of the reply that were run; those that ran past its end do not count.
void Session::keep(const Run& run, uint32_t position) {
  const size_t ran = std::min(position - run.prompt.size(), run.result.tokens.size());
  const size_t written = run.given.size() - run.prompt.size();
  std::vector<uint32_t>& cached = current().cached;
  cached.insert(cached.end(), run.result.tokens.begin() + static_cast<long>(written),
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
  if (choose != Choose::kArgmax) write_sampling(run);
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
  CO_TRY_VOID(
      co_await run_prompt(run, run.result.cached_tokens, [&] { return readback(given_size - 1); }));
  if (run.ended) co_return Status{};  // cancelled before the last batch
  uint32_t position = given_size;     // of the next decode to submit
  uint32_t cautious = 0;
  Status status;
  bool going = true;
  for (;;) {
    const bool alone = penalties || cautious > 0 || decoder_->rows_in_source();
    const size_t depth =
        alone ? 1 : in_flight(run.result.tokens.size(), gpu::host_now() - run.first_token);
    while (going && flight.size() < depth && position < decoder_->context() &&
           (run.options.max_tokens == 0 || position - prompt_size + 1 < run.options.max_tokens)) {
      if (penalties) {
        CO_TRY(adjustments, write_adjustments(run));
      }
      if (decoder_->rows_in_source()) {
        // Nothing is in flight here, and the token to run is the last of the reply.
        CO_TRY_VOID(co_await provide(run, std::span(run.result.tokens).last(1), true));
        if (run.ended) break;
      }
      decoder_->decode(position, readback(position));
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
        decoder_->decode(last, readback(last));
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
    if (going) going = accept(run, *token);
  }
  CO_TRY_VOID(std::move(status));
  keep(run, position);
  co_return Status{};
}

Task<Result<RunResult>> Session::run(std::vector<uint32_t> prompt, const GenerateOptions& options,
                                     uint64_t seed, Listener& listener,
                                     std::function<bool()> cancelled, Constraint* constraint,
                                     std::vector<uint32_t> written) {
  if (busy_) co_return fail(ErrorCode::kBusy, "this session is answering another request");
  CO_TRY_VOID(check_prompt(prompt));
  std::vector<uint32_t> given = prompt;
  given.insert(given.end(), written.begin(), written.end());
  CO_TRY_VOID(check_prompt(given));
  CO_TRY_VOID(check_room(prompt));
  busy_ = true;
  Run run{.prompt = std::move(prompt),
          .given = std::move(given),
          .options = options,
          .seed = seed,
          .listener = listener,
          .constraint = constraint,
          .cancelled = std::move(cancelled)};
  run.start = gpu::host_now();
  run.result.prompt_tokens = static_cast<uint32_t>(run.prompt.size());
  // What was written may have ended the reply already, at its last token.
  bool going = true;
  for (size_t i = 0; going && i < written.size(); ++i) {
    ChosenToken token{.id = written[i]};
    // Its event, where there is one, comes again in its place; what was in it is not known here.
    if (options.logprobs > 0) token.top.push_back({token.id, 0});
    if (constraint != nullptr && !constraint->allows(token.id)) {
      busy_ = false;
      co_return fail(ErrorCode::kInvalidArgument, "what was written is not of the format");
    }
    going = constraint != nullptr ? accept_allowed(run, token) : accept(run, token);
  }
  Status status;
  if (going) {
    choose_sequence(run.given);
    run.result.cached_tokens = reuse_prefix(run.given);
    listener.on_prefill(run.result.cached_tokens, static_cast<uint32_t>(run.given.size()),
                        run.result.cached_tokens);
    status = co_await decode(run);
  }
  busy_ = false;
  if (!status) {
    forget_all();
    co_return std::unexpected(std::move(status).error());
  }
  const double end = gpu::host_now();
  if (run.result.tokens.empty()) run.first_token = end;
  run.result.prefill_ms = run.first_token - run.start;
  run.result.decode_ms = end - run.first_token;
  co_return std::move(run.result);
}

Task<Status> Session::prefill_all(const std::vector<std::vector<uint32_t>>& prompts,
                                  std::vector<Prefilled>& results,
                                  const std::function<bool()>& cancelled) {
  std::vector<uint32_t> taken;
  for (const std::vector<uint32_t>& prompt : prompts) {
    choose_sequence(prompt, taken);
    taken.push_back(current_);
    results.push_back({.prompt_tokens = static_cast<uint32_t>(prompt.size()),
                       .cached_tokens = reuse_prefix(prompt)});
  }
  for (size_t p = 0; p < prompts.size() && !cancelled();) {
    std::vector<model::Prompt> batch;
    std::vector<uint32_t> all;
    uint32_t room = decoder_->max_batch();
    for (; p < prompts.size() && room > 0; ++p) {
      const std::vector<uint32_t>& prompt = prompts[p];
      const auto at = static_cast<uint32_t>(sequences_[taken[p]].cached.size());
      const std::span tokens =
          std::span(prompt).subspan(at, std::min<size_t>(room, prompt.size() - at));
      batch.push_back({.sequence = taken[p], .position = at, .tokens = tokens});
      all.insert(all.end(), tokens.begin(), tokens.end());
      room -= static_cast<uint32_t>(tokens.size());
      if (at + tokens.size() < prompt.size()) break;  // the rest is the next batch's
    }
    Status provided = co_await decoder_->provide(all, false);
    if (!provided && cancelled()) break;  // a read that was given up
    CO_TRY_VOID(std::move(provided));
    decoder_->prefill(batch);
    for (const auto& [sequence, position, tokens] : batch) {
      Sequence& written = sequences_[sequence];
      written.cached.insert(written.cached.end(), tokens.begin(), tokens.end());
      written.note_written(static_cast<uint32_t>(written.cached.size()));
    }
    CO_TRY_VOID(co_await device_.sync());
  }
  co_return Status{};
}

Task<Result<std::vector<Prefilled>>> Session::prefill(std::vector<std::vector<uint32_t>> prompts,
                                                      std::function<bool()> cancelled) {
  if (busy_) co_return fail(ErrorCode::kBusy, "this session is answering another request");
  if (prompts.size() > sequences_.size()) {
    co_return fail(ErrorCode::kInvalidArgument,
                   cat(prompts.size(), " prompts; the model was loaded for ", sequences_.size(),
                       " at once. Load it with more sessions"));
  }
  for (const std::vector<uint32_t>& prompt : prompts) {
    CO_TRY_VOID(check_prompt(prompt));
    CO_TRY_VOID(check_room(prompt));
  }
  busy_ = true;
  std::vector<Prefilled> results;
  Status status = co_await prefill_all(prompts, results, cancelled);
  busy_ = false;
  if (!status) {
    forget_all();
    co_return std::unexpected(std::move(status).error());
  }
  co_return results;
}

Task<Result<std::vector<float>>> Session::logits(std::vector<uint32_t> tokens, bool all) {
  if (busy_) co_return fail(ErrorCode::kBusy, "this session is answering another request");
  CO_TRY_VOID(check_prompt(tokens));
  if (tokens.size() > decoder_->context()) {
    co_return fail(ErrorCode::kContextOverflow,
                   cat(tokens.size(), " tokens do not fit the context of ", decoder_->context()));
  }
  busy_ = true;
  const auto total = static_cast<uint32_t>(tokens.size());
  std::vector<float> out(size_t{all ? total : 1} * vocab_);
  choose_sequence(tokens);
  Status status;
  if (all) {
    current() = {.adapters = adapters_, .used = clock_};
    status = co_await decoder_->prepare_all_positions();
    const uint32_t rows = decoder_->logits_rows();
    for (uint32_t at = 0; status && at < total; at += decoder_->max_batch()) {
      const uint32_t count = std::min(decoder_->max_batch(), total - at);
      const auto batch = std::span(tokens).subspan(at, count);
      status = co_await decoder_->provide(batch, false);
      if (!status) break;
      const model::Prompt prompt{.sequence = current_, .position = at, .tokens = batch};
      decoder_->run_all_layers({&prompt, 1});
      for (uint32_t row = 0; status && row < count; row += rows) {
        const uint32_t block = std::min(rows, count - row);
        status = co_await decoder_->read_logits(
            row, std::span(out).subspan(size_t{at + row} * vocab_, size_t{block} * vocab_));
      }
    }
  } else {
    uint32_t at = reuse_prefix(tokens);
    for (; status && at < total;) {
      const uint32_t count = std::min(decoder_->max_batch(), total - at);
      const bool last = at + count == total;
      const auto batch = std::span(tokens).subspan(at, count);
      status = co_await decoder_->provide(batch, last);
      if (!status) break;
      if (last) {
        status = co_await gpu::HostCall([&](uint32_t ticket) {
          decoder_->prefill(batch, at, true,
                            {.choose = Choose::kLogits, .address = out.data(), .ticket = ticket});
        });
      } else {
        decoder_->prefill(batch, at, false, {});
      }
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
