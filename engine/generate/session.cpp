#include "engine/generate/session.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <unordered_map>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::generate {

using model::Choose;
using model::Readback;

namespace {

// Tokens that run ahead of the host in greedy decoding: the wait for one hides behind the next.
constexpr size_t kInFlight = 3;

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

// The state of one run.
struct Session::Run {
  std::vector<uint32_t> prompt;
  const GenerateOptions& options;
  uint64_t seed;
  Listener& listener;
  std::function<bool()> cancelled;
  RunResult result;
  double start = 0;
  double first_token = 0;
  bool ended = false;

  uint32_t next_position() const {
    return static_cast<uint32_t>(prompt.size() + result.tokens.size());
  }
};

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

void Session::truncate(uint32_t length) {
  if (length < cached_.size()) cached_.resize(length);
}

uint32_t Session::reuse_prefix(const std::vector<uint32_t>& prompt) {
  const size_t limit = std::min(cached_.size(), prompt.size() - 1);
  uint32_t common = 0;
  while (common < limit && cached_[common] == prompt[common]) ++common;
  // Sliding layers keep a ring: the oldest position still there is high_water - slots. The window
  // before the first new token must be whole, or the prompt runs anew.
  const uint32_t slots = decoder_->ring_slots();
  const uint32_t oldest = high_water_ > slots ? high_water_ - slots : 0;
  const uint32_t window = decoder_->window();
  const uint32_t needed = common + 1 > window ? common + 1 - window : 0;
  if (window > 0 && needed < oldest) common = 0;
  if (common == 0) high_water_ = 0;
  cached_.resize(common);
  return common;
}

Task<Status> Session::prefill(Run& run, uint32_t from, const Readback& readback) {
  const auto total = static_cast<uint32_t>(run.prompt.size());
  const std::span<const uint32_t> tokens(run.prompt);
  for (uint32_t at = from; at < total;) {
    const uint32_t count = std::min(decoder_->max_batch(), total - at);
    const bool last = at + count == total;
    decoder_->prefill(tokens.subspan(at, count), at, last, last ? readback : Readback{});
    at += count;
    note_written(at);
    cached_.assign(run.prompt.begin(), run.prompt.begin() + at);
    if (last) break;
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

// Greedy, with nothing that depends on the tokens chosen: the GPU feeds itself, and several tokens
// are in flight.
Task<Status> Session::decode_fast(Run& run) {
  struct Pending {
    gpu::HostFuture future;
    uint32_t token = 0;
  };
  CO_TRY(const uint32_t adjustments, write_adjustments(run));
  const auto readback = [&](Pending& pending) {
    return Readback{.choose = Choose::kArgmax,
                    .adjust_entries = adjustments,
                    .address = &pending.token,
                    .ticket = pending.future.start()};
  };
  const auto prompt_size = static_cast<uint32_t>(run.prompt.size());
  std::deque<Pending> flight;
  CO_TRY_VOID(co_await prefill(run, run.result.cached_tokens, readback(flight.emplace_back())));
  if (run.ended)
    co_return Status{};  // cancelled before the last batch: the readback was never submitted
  uint32_t position = prompt_size;  // of the next decode to submit
  Status status;
  bool going = true;
  while (!flight.empty()) {
    while (going && flight.size() < kInFlight && position < decoder_->context() &&
           (run.options.max_tokens == 0 || position - prompt_size + 1 < run.options.max_tokens)) {
      decoder_->decode(position, readback(flight.emplace_back()));
      note_written(++position);
    }
    Status read = co_await flight.front().future;
    if (!read && status) status = std::move(read);
    const uint32_t token = flight.front().token;
    flight.pop_front();
    if (!status) going = false;
    if (going) going = accept(run, {.id = token});
  }
  CO_TRY_VOID(std::move(status));
  // Tokens of the reply that were run; those that ran past its end do not count.
  const size_t ran = std::min<size_t>(position - prompt_size, run.result.tokens.size());
  cached_.insert(cached_.end(), run.result.tokens.begin(),
                 run.result.tokens.begin() + static_cast<long>(ran));
  co_return Status{};
}

Task<Result<ChosenToken>> Session::choose(Run& run, Sampler& sampler,
                                          std::span<const std::byte> bytes) {
  const auto header = load<kernels::TopkHeader>(bytes, 0);
  const uint32_t count = std::min(header.count, decoder_->candidates());
  if (count == 0) co_return fail(ErrorCode::kInternal, "the GPU returned no candidates");
  std::vector<Candidate> candidates(count);
  for (uint32_t i = 0; i < count; ++i) {
    const auto pair =
        load<kernels::TopkPair>(bytes, sizeof(kernels::TopkHeader) + i * sizeof(kernels::TopkPair));
    candidates[i] = {pair.id, pair.logit};
  }
  auto id = sampler.sample(candidates, header.log_sum_exp, count == vocab_);
  if (!id) {
    // The tail matters (no top_k, and a top_p that the candidates do not reach): the one case that
    // reads all logits.
    std::vector<float> logits(vocab_);
    CO_TRY_VOID(co_await decoder_->read_last_logits(logits));
    std::vector<Candidate> all(vocab_);
    for (uint32_t i = 0; i < vocab_; ++i) all[i] = {i, logits[i]};
    std::ranges::sort(all, [](const Candidate& a, const Candidate& b) {
      return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    });
    id = sampler.sample(all, header.log_sum_exp, true);
    const auto chosen = std::ranges::find(all, *id, &Candidate::id);
    candidates.push_back(*chosen);
  }
  ChosenToken token{.id = *id};
  if (run.options.logprobs > 0) {
    const auto chosen = std::ranges::find(candidates, *id, &Candidate::id);
    token.logprob = chosen->logit - header.log_sum_exp;
    for (uint32_t i = 0; i < std::min(run.options.logprobs, count); ++i) {
      token.top.push_back({candidates[i].id, candidates[i].logit - header.log_sum_exp});
    }
  }
  co_return token;
}

// Everything else: the candidates come back, the host draws and says what runs next.
Task<Status> Session::decode_sampled(Run& run) {
  Sampler sampler(run.options.sampling, run.seed);
  std::vector<std::byte> bytes(decoder_->candidate_bytes());
  CO_TRY(uint32_t adjustments, write_adjustments(run));
  gpu::HostFuture future;
  const auto readback = [&] {
    return Readback{.choose = Choose::kTopk,
                    .adjust_entries = adjustments,
                    .address = bytes.data(),
                    .ticket = future.start()};
  };
  CO_TRY_VOID(co_await prefill(run, run.result.cached_tokens, readback()));
  if (run.ended) co_return Status{};
  for (;;) {
    CO_TRY_VOID(co_await future);
    CO_TRY(ChosenToken token, co_await choose(run, sampler, bytes));
    const uint32_t id = token.id;
    if (!accept(run, token)) co_return Status{};
    const uint32_t position = run.next_position() - 1;
    if (run.options.sampling.has_penalties()) {
      CO_TRY(adjustments, write_adjustments(run));
    }
    decoder_->set_token(id, position);
    decoder_->decode(position, readback());
    note_written(position + 1);
    cached_.push_back(id);
  }
}

Task<Result<RunResult>> Session::run(std::vector<uint32_t> prompt, const GenerateOptions& options,
                                     uint64_t seed, Listener& listener,
                                     std::function<bool()> cancelled) {
  if (busy_) co_return fail(ErrorCode::kBusy, "this session is answering another request");
  CO_TRY_VOID(check_prompt(prompt));
  if (prompt.size() >= decoder_->context()) {
    co_return fail(
        ErrorCode::kContextOverflow,
        cat("the prompt has ", prompt.size(), " tokens; the context of ", decoder_->context(),
            " leaves no room for an answer. Shorten it, or load the model with a longer context"));
  }
  busy_ = true;
  Run run{.prompt = std::move(prompt),
          .options = options,
          .seed = seed,
          .listener = listener,
          .cancelled = std::move(cancelled)};
  run.start = gpu::host_now();
  run.result.cached_tokens = reuse_prefix(run.prompt);
  run.result.prompt_tokens = static_cast<uint32_t>(run.prompt.size());
  listener.on_prefill(run.result.cached_tokens, run.result.prompt_tokens, run.result.cached_tokens);
  const SamplingOptions& sampling = options.sampling;
  const bool fast = sampling.greedy() && !sampling.has_penalties() && options.logprobs == 0;
  Status status = fast ? co_await decode_fast(run) : co_await decode_sampled(run);
  busy_ = false;
  if (!status) {
    // What the cache holds is no longer known.
    cached_.clear();
    high_water_ = 0;
    co_return std::unexpected(std::move(status).error());
  }
  const double end = gpu::host_now();
  if (run.result.tokens.empty()) run.first_token = end;
  run.result.prefill_ms = run.first_token - run.start;
  run.result.decode_ms = end - run.first_token;
  co_return std::move(run.result);
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
  Status status;
  if (all) {
    cached_.clear();
    high_water_ = 0;
    status = co_await decoder_->prepare_all_positions();
    const uint32_t rows = decoder_->logits_rows();
    for (uint32_t at = 0; status && at < total; at += decoder_->max_batch()) {
      const uint32_t count = std::min(decoder_->max_batch(), total - at);
      decoder_->run_all_layers(std::span(tokens).subspan(at, count), at);
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
    cached_.clear();
    high_water_ = 0;
    co_return std::unexpected(std::move(status).error());
  }
  cached_ = std::move(tokens);
  note_written(total);
  co_return out;
}

}  // namespace lapidary::generate
