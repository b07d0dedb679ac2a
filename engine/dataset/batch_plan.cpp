#include "engine/dataset/batch_plan.h"

#include <algorithm>
#include <numeric>

#include "engine/base/bytes.h"
#include "engine/base/random.h"
#include "engine/base/text.h"

namespace lapidary::dataset {
namespace {

constexpr uint64_t kMaxBatchPositions = 1 << 26;

Status check(const Dataset& dataset, const std::vector<uint32_t>& examples,
             const BatchOptions& options) {
  const auto invalid = [](const std::string& message) {
    return fail(ErrorCode::kInvalidArgument, cat("batches: ", message));
  };
  if (options.rows == 0 || options.row_length == 0 || options.length_unit == 0) {
    return invalid("rows, row length and length unit must not be 0");
  }
  if (options.row_length % options.length_unit != 0) {
    return invalid(
        cat("rows of ", options.row_length, " tokens are no multiple of ", options.length_unit));
  }
  if (uint64_t{options.rows} * options.row_length > kMaxBatchPositions) {
    return invalid(cat(options.rows, " rows of ", options.row_length, " tokens are too many"));
  }
  if (examples.empty()) return invalid("there is no example");
  for (const uint32_t i : examples) {
    if (i >= dataset.size()) return invalid(cat("there is no example ", i));
    if (dataset.length(i) > options.row_length) {
      return invalid(cat("example ", i, " has ", dataset.length(i), " tokens, a row holds ",
                         options.row_length));
    }
  }
  return {};
}

}  // namespace

std::vector<uint32_t> first_fit(const std::vector<uint32_t>& lengths, uint32_t row_length) {
  // A tree over as many rows as there may be: each node holds the most room of any row below it.
  size_t leaves = 1;
  while (leaves < lengths.size()) leaves *= 2;
  std::vector<uint32_t> room(2 * leaves, row_length);
  std::vector<uint32_t> rows;
  rows.reserve(lengths.size());
  for (const uint32_t length : lengths) {
    size_t node = 1;
    while (node < leaves) node = 2 * node + (room[2 * node] >= length ? 0 : 1);
    rows.push_back(static_cast<uint32_t>(node - leaves));
    room[node] -= length;
    while (node > 1) {
      node /= 2;
      room[node] = std::max(room[2 * node], room[2 * node + 1]);
    }
  }
  return rows;
}

Result<BatchPlan> BatchPlan::create(const Dataset& dataset, std::vector<uint32_t> examples,
                                    const BatchOptions& options, const PlanState& state) {
  TRY_VOID(check(dataset, examples, options));
  BatchPlan plan(dataset, std::move(examples), options, state);
  plan.plan_epoch();
  if (state.batch >= plan.batches()) {
    return fail(ErrorCode::kInvalidArgument,
                cat("batches: epoch ", state.epoch, " has ", plan.batches(), " batches, none ",
                    state.batch, ": the state is of other data or options"));
  }
  return plan;
}

uint32_t BatchPlan::batches() const { return div_ceil(rows(), options_.rows); }

void BatchPlan::plan_epoch() {
  Random random(state_.seed, state_.epoch);
  std::vector<uint32_t> shuffled = examples_;
  if (options_.shuffle) random.shuffle(std::span<uint32_t>(shuffled));

  std::vector<uint32_t> row_of(shuffled.size());
  std::iota(row_of.begin(), row_of.end(), 0u);
  if (options_.pack) {
    std::vector<uint32_t> lengths;
    for (const uint32_t i : shuffled) lengths.push_back(dataset_->length(i));
    row_of = first_fit(lengths, options_.row_length);
  }
  const uint32_t n_rows = *std::ranges::max_element(row_of) + 1;
  // First fit leaves the fullest rows first and the long examples among the later ones.
  std::vector<uint32_t> place(n_rows);
  std::iota(place.begin(), place.end(), 0u);
  if (options_.shuffle && options_.pack) random.shuffle(std::span<uint32_t>(place));

  row_starts_.assign(size_t{n_rows} + 1, 0);
  for (const uint32_t row : row_of) ++row_starts_[place[row] + 1];
  std::partial_sum(row_starts_.begin(), row_starts_.end(), row_starts_.begin());
  std::vector<uint32_t> next(row_starts_.begin(), row_starts_.end() - 1);
  order_.resize(shuffled.size());
  for (size_t i = 0; i < shuffled.size(); ++i) order_[next[place[row_of[i]]]++] = shuffled[i];
}

void BatchPlan::fill_row(Batch& batch, uint32_t row, uint32_t planned) const {
  size_t at = size_t{row} * batch.row_length;
  for (uint32_t k = row_starts_[planned]; k < row_starts_[planned + 1]; ++k) {
    const Example example = dataset_->example(order_[k]);
    const auto to = [at](std::vector<uint32_t>& all) {
      return all.begin() + static_cast<ptrdiff_t>(at);
    };
    const size_t length = example.tokens.size();
    std::ranges::copy(example.tokens, to(batch.tokens));
    std::ranges::copy(example.targets, to(batch.targets));
    std::iota(to(batch.positions), to(batch.positions) + static_cast<ptrdiff_t>(length), 0u);
    std::fill_n(to(batch.sequence_ids), length, batch.sequences++);
    batch.supervised += dataset_->supervised(order_[k]);
    at += length;
  }
}

Batch BatchPlan::next() {
  const uint32_t first = state_.batch * options_.rows;
  Batch batch{.rows = std::min(options_.rows, rows() - first)};
  for (uint32_t row = first; row < first + batch.rows; ++row) {
    uint32_t length = 0;
    for (uint32_t k = row_starts_[row]; k < row_starts_[row + 1]; ++k) {
      length += dataset_->length(order_[k]);
    }
    batch.row_length = std::max(batch.row_length, length);
  }
  batch.row_length = static_cast<uint32_t>(round_up(batch.row_length, options_.length_unit));
  const size_t size = size_t{batch.rows} * batch.row_length;
  batch.tokens.assign(size, 0);
  batch.targets.assign(size, kUnsupervised);
  batch.positions.assign(size, 0);
  batch.sequence_ids.assign(size, kNoSequence);
  for (uint32_t row = 0; row < batch.rows; ++row) fill_row(batch, row, first + row);

  if (++state_.batch == batches()) {
    state_.batch = 0;
    ++state_.epoch;
    if (options_.shuffle) plan_epoch();
  }
  return batch;
}

}  // namespace lapidary::dataset
