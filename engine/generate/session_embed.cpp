// The part of a session that embeds texts. It needs every position of every layer, so nothing of
// the cache helps it; K and V of the texts take the place of few conversations.
#include <algorithm>
#include <numeric>

#include "engine/base/text.h"
#include "engine/generate/session.h"

namespace lapidary::generate {
namespace {

// Hidden states that are on their way to the host at once.
constexpr size_t kReadFloats = 1 << 20;

}  // namespace

// Sequences that texts may be run in: those that hold nothing, but at least half of all (and one),
// then from the one unused for longest on.
std::vector<uint32_t> Session::spare_sequences() const {
  std::vector<uint32_t> order(sequences_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::stable_sort(order, {}, [&](uint32_t s) {
    return std::pair(!sequences_[s].cached.empty(), sequences_[s].used);
  });
  const auto empty = static_cast<size_t>(std::ranges::count_if(
      sequences_, [](const Sequence& sequence) { return sequence.cached.empty(); }));
  order.resize(std::max({empty, order.size() / 2, size_t{1}}));
  return order;
}

Task<Status> Session::read_rows(uint32_t row, uint32_t count, Pool& pool) const {
  const uint32_t hidden = decoder_->hidden();
  const auto most = static_cast<uint32_t>(std::max<size_t>(kReadFloats / hidden, 1));
  std::vector<float> rows;
  for (uint32_t done = 0; done < count; done += most) {
    rows.resize(size_t{std::min(most, count - done)} * hidden);
    CO_TRY_VOID(co_await decoder_->read_hidden(row + done, rows));
    pool.add(rows);
  }
  co_return Status{};
}

Task<Status> Session::embed_all(const std::vector<std::vector<uint32_t>>& texts,
                                const EmbeddingOptions& options,
                                std::vector<std::vector<float>>& results,
                                const std::function<bool()>& cancelled) {
  struct Running {
    size_t text;
    uint32_t sequence;
    uint32_t at = 0;
    Pool pool;
  };
  CO_TRY_VOID(co_await decoder_->prepare_hidden());
  std::vector<uint32_t> spare = spare_sequences();
  // Nothing in there is a beginning that a prompt could go on from, and the next prompt that goes
  // on from nothing takes one of them.
  for (const uint32_t s : spare) sequences_[s] = {};
  std::vector<Running> running;
  size_t next = 0;
  while (next < texts.size() || !running.empty()) {
    if (cancelled()) co_return fail(ErrorCode::kCancelled, "the embedding was stopped");
    for (; next < texts.size() && !spare.empty(); ++next) {
      running.push_back({next, spare.back(), 0, Pool(options.pooling, decoder_->hidden())});
      spare.pop_back();
    }
    std::vector<model::Prompt> batch;
    std::vector<uint32_t> all;
    for (const Running& one : running) {
      const auto tokens = std::span(texts[one.text]).subspan(one.at);
      const size_t room = decoder_->max_batch() - all.size();
      const auto taken = tokens.first(std::min(tokens.size(), room));
      if (taken.empty()) break;
      batch.push_back({.sequence = one.sequence, .position = one.at, .tokens = taken});
      all.insert(all.end(), taken.begin(), taken.end());
    }
    CO_TRY_VOID(co_await decoder_->provide(all, false));
    CO_TRY_VOID(co_await decoder_->run_all_layers(batch));
    uint32_t row = 0;
    for (size_t b = 0; b < batch.size(); ++b) {
      Running& one = running[b];
      const auto count = static_cast<uint32_t>(batch[b].tokens.size());
      one.at += count;
      const bool ended = one.at == texts[one.text].size();
      if (options.pooling == Pooling::kMean) {
        CO_TRY_VOID(co_await read_rows(row, count, one.pool));
      } else if (ended) {
        CO_TRY_VOID(co_await read_rows(row + count - 1, 1, one.pool));
      }
      row += count;
      if (!ended) continue;
      CO_TRY(results[one.text], one.pool.finish(options));
      spare.push_back(one.sequence);
    }
    std::erase_if(running, [&](const Running& one) { return one.at == texts[one.text].size(); });
    // An error of the GPU shows here, before its numbers are anybody's.
    CO_TRY_VOID(co_await device_.sync());
  }
  co_return Status{};
}

Task<Result<std::vector<std::vector<float>>>> Session::embed(
    std::vector<std::vector<uint32_t>> texts, EmbeddingOptions options,
    std::function<bool()> cancelled) {
  CO_TRY_VOID(check_idle());
  for (std::vector<uint32_t>& text : texts) {
    if (options.truncate && text.size() > decoder_->context()) text.resize(decoder_->context());
    CO_TRY_VOID(check_prompt(text));
    if (text.size() > decoder_->context()) {
      co_return fail(ErrorCode::kContextOverflow,
                     cat("a text of ", text.size(), " tokens does not fit the context of ",
                         decoder_->context(), ". Shorten it, or let it be truncated"));
    }
  }
  busy_ = true;
  std::vector<std::vector<float>> results(texts.size());
  Status status = co_await embed_all(texts, options, results, cancelled);
  busy_ = false;
  if (!status) {
    if (status.error().code != ErrorCode::kCancelled) forget_all();
    co_return std::unexpected(std::move(status).error());
  }
  co_return results;
}

}  // namespace lapidary::generate
