// Compares what training kernels answer with f64, and gradients with those of the reference tape:
// what their tests share.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "engine/reference/tape.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {

// Every value within `tolerance` of what is wanted, relative to that or to the root mean square of
// all that is wanted, whichever is larger. kInternal names the first that is not.
Status expect_close(std::string_view what, std::span<const float> got,
                    std::span<const double> wanted, double tolerance);

// A uniform buffer of one struct, or one step.
template <typename T>
Result<gpu::Buffer> trial_params(gpu::Device& device, const T& params) {
  return trial_buffer(device, std::as_bytes(std::span(&params, 1)));
}

using Values = std::vector<std::vector<float>>;

// A result that the objective reads: sum over slots of seeds[slot] · values. Results of one slot
// follow each other.
struct Output {
  size_t slot;
  reference::Variable* y;
};
using Build =
    std::function<std::vector<Output>(reference::Tape&, std::span<reference::Variable* const>)>;

struct Evaluation {
  double objective = 0;
  std::vector<std::vector<double>> outputs;    // of each slot
  std::vector<std::vector<double>> gradients;  // of the objective by each input
};

// Outputs and gradients by the tape, for inputs and results of `rows` rows; kInternal where finite
// differences of the objective disagree with it.
Result<Evaluation> confirmed(const Build& build, const Values& inputs, size_t rows,
                             const Values& seeds);

}  // namespace lapidary::kernels
