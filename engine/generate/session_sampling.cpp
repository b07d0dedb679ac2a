// The part of a session that says how tokens are drawn: penalties and biases, cuts, random bits,
// and what the GPU's candidates leave open.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "engine/base/bytes.h"
#include "engine/generate/session_run.h"

namespace lapidary::generate {
namespace {

// Draws are written in blocks; two fit the ring, so that none in flight is overwritten.
constexpr uint32_t kDrawBlock = kernels::kDrawSlots / 2;

}  // namespace

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

Session::Adjustments Session::adjustments(const Run& run) const {
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
      const size_t size = run.prompt.size();
      const uint32_t id = i < size ? run.prompt[i] : run.result.tokens[i - size];
      if (id < model::kSoftToken) entry(id).count += 1;
    }
  }
  Adjustments out;
  for (const auto& [id, e] : entries) out.entries.push_back(e);
  out.params = {.entries = static_cast<uint32_t>(out.entries.size()),
                .repeat_penalty = sampling.repeat_penalty,
                .presence_penalty = sampling.presence_penalty,
                .frequency_penalty = sampling.frequency_penalty};
  return out;
}

Result<uint32_t> Session::write_adjustments(const Run& run) {
  const Adjustments all = adjustments(run);
  if (!all.entries.empty()) TRY_VOID(decoder_->set_adjustments(all.entries, all.params));
  return all.params.entries;
}

kernels::SampleParams Session::sampling(const Run& run) const {
  // What the GPU itself draws does not count; its candidates do.
  if (run.constraint != nullptr) return {.top_k = 1, .want = decoder_->candidates()};
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
  return params;
}

// Sees to it that the submission at `position` finds its random bits.
void Session::write_draws(Run& run, uint32_t position) {
  const auto first = static_cast<uint32_t>(run.prompt.size() - 1);
  if (run.draws_end == 0) run.draws_end = position / kDrawBlock * kDrawBlock;
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
  CO_TRY_VOID(co_await read_logits_of(run, logits));
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

Task<Status> Session::read_logits_of(const Run& run, std::span<float> out) const {
  if (run.verified) co_return co_await decoder_->read_row_logits(true, *run.verified, out);
  if (run.row) co_return co_await decoder_->read_row_logits(false, *run.row, out);
  co_return co_await decoder_->read_last_logits(out);
}

}  // namespace lapidary::generate
