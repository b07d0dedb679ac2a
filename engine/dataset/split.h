// Which examples are trained on and which are kept aside to evaluate.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/error.h"
#include "engine/dataset/dataset.h"

namespace lapidary::dataset {

// How much to keep aside, in lines of the file, whose examples stay together: a fraction below 1 of
// them, rounded (at least one, if it is not 0), or a count.
struct EvalShare {
  double fraction = 0;
  uint32_t count = 0;  // if not 0, instead of the fraction
};

// Indices into the dataset, ascending.
struct Split {
  std::vector<uint32_t> train, eval;
};

// Equal seeds split equal datasets alike. kInvalidArgument: a share that is no share, or that
// leaves nothing to train on.
Result<Split> split(const Dataset& dataset, const EvalShare& share, uint64_t seed);

}  // namespace lapidary::dataset
