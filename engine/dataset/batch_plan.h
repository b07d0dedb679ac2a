// The order in which examples are trained on, epoch by epoch, and the batches that they make.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/error.h"
#include "engine/dataset/dataset.h"

namespace lapidary::dataset {

inline constexpr uint32_t kNoSequence = UINT32_MAX;

// Four arrays [rows, row_length], row-major. What lies behind a row's last example is padding:
// token 0, kUnsupervised, position 0, kNoSequence.
struct Batch {
  uint32_t rows = 0, row_length = 0;
  std::vector<uint32_t> tokens;
  std::vector<uint32_t> targets;
  std::vector<uint32_t> positions;     // of the token in its example, from 0
  std::vector<uint32_t> sequence_ids;  // of the example, from 0 in each batch, ascending: a token
                                       // sees those of its own id alone
  uint32_t sequences = 0;
  uint32_t supervised = 0;  // targets that count
};

struct BatchOptions {
  uint32_t rows = 1;           // of a batch; the last batch of an epoch may have fewer
  uint32_t row_length = 2048;  // at most; a batch is as long as its longest row
  uint32_t length_unit = 1;    // lengths of batches are rounded up to a multiple of this
  bool pack = true;            // several examples in a row, else one
  bool shuffle = true;         // else every epoch is in the order of the examples
};

// With the dataset, the examples and the options, all that the batches to come depend on.
struct PlanState {
  uint64_t seed = 0;
  uint32_t epoch = 0;
  uint32_t batch = 0;  // the next of that epoch

  bool operator==(const PlanState&) const = default;
};

class BatchPlan {
 public:
  // examples: indices into the dataset, which must outlive the plan. Begins, or goes on, at
  // `state`. kInvalidArgument: no examples, one that is not there or longer than a row, an option
  // of 0, a row_length that is no multiple of length_unit, a batch larger than 2^26 positions, or a
  // state that this plan never has.
  static Result<BatchPlan> create(const Dataset& dataset, std::vector<uint32_t> examples,
                                  const BatchOptions& options, const PlanState& state = {});

  // Of the current epoch. Packing may give each epoch another number.
  uint32_t batches() const;
  const PlanState& state() const { return state_; }

  // The batch that state() points at; then points at the next one, with the last of an epoch at the
  // first of the next. Every example is in exactly one batch of an epoch.
  Batch next();

 private:
  BatchPlan(const Dataset& dataset, std::vector<uint32_t> examples, const BatchOptions& options,
            const PlanState& state)
      : dataset_(&dataset), examples_(std::move(examples)), options_(options), state_(state) {}
  void plan_epoch();
  uint32_t rows() const { return static_cast<uint32_t>(row_starts_.size() - 1); }
  void fill_row(Batch& batch, uint32_t row, uint32_t planned) const;

  const Dataset* dataset_;
  std::vector<uint32_t> examples_;
  BatchOptions options_;
  PlanState state_;
  std::vector<uint32_t> order_;       // this epoch's examples, row by row
  std::vector<uint32_t> row_starts_;  // [rows + 1] into order_
};

// First fit: puts each item, in order, into the first row that has room for it, or a new one.
// Returns each item's row. lengths: at most row_length each. O(n log n).
std::vector<uint32_t> first_fit(const std::vector<uint32_t>& lengths, uint32_t row_length);

}  // namespace lapidary::dataset
