// Finite differences of an objective, and how close is close enough.
#include "tests/kernels/training_check.h"

#include <cmath>

namespace lapidary::kernels {
namespace {

using reference::Tape;
using reference::Variable;

Evaluation evaluate(const Build& build, const std::vector<std::vector<double>>& inputs, size_t rows,
                    const Values& seeds) {
  Tape tape;
  std::vector<Variable*> leaves;
  for (const std::vector<double>& input : inputs) {
    leaves.push_back(tape.leaf(rows, input.size() / rows));
    leaves.back()->value = input;
  }
  Evaluation out;
  out.outputs.resize(seeds.size());
  for (const auto& [slot, y] : build(tape, leaves)) {
    const float* dy = seeds[slot].data() + out.outputs[slot].size();
    for (size_t i = 0; i < y->value.size(); ++i) {
      out.objective += dy[i] * y->value[i];
      y->gradient[i] += dy[i];
      out.outputs[slot].push_back(y->value[i]);
    }
  }
  tape.backward(tape.leaf(1, 1));  // the seeds are where gradients come from
  for (const Variable* leaf : leaves) out.gradients.push_back(leaf->gradient);
  return out;
}

}  // namespace

Status expect_close(std::string_view what, std::span<const float> got,
                    std::span<const double> wanted, double tolerance) {
  double squares = 0;
  for (const double w : wanted) squares += w * w;
  const double size = wanted.empty() ? 0 : std::sqrt(squares / static_cast<double>(wanted.size()));
  if (got.size() != wanted.size())
    return fail(ErrorCode::kInternal,
                cat(what, ": ", got.size(), " values instead of ", wanted.size()));
  for (size_t i = 0; i < wanted.size(); ++i) {
    // Written so that NaN is no answer.
    if (std::fabs(got[i] - wanted[i]) <= tolerance * std::fmax(std::fabs(wanted[i]), size))
      continue;
    return fail(ErrorCode::kInternal, cat(what, " at ", i, " of ", wanted.size(), ": ", got[i],
                                          " instead of ", wanted[i]));
  }
  return {};
}

Result<Evaluation> confirmed(const Build& build, const Values& inputs, size_t rows,
                             const Values& seeds) {
  std::vector<std::vector<double>> at;
  for (const std::vector<float>& input : inputs) at.emplace_back(input.begin(), input.end());
  Evaluation out = evaluate(build, at, rows, seeds);
  constexpr double kStep = 1e-5;
  TrialRandom random(77);
  for (size_t n = 0; n < at.size(); ++n) {
    for (int trial = 0; trial < 4; ++trial) {
      const size_t i = random.bits() % at[n].size();
      const double x = at[n][i];
      at[n][i] = x + kStep;
      const double above = evaluate(build, at, rows, seeds).objective;
      at[n][i] = x - kStep;
      const double below = evaluate(build, at, rows, seeds).objective;
      at[n][i] = x;
      const double slope = (above - below) / (2 * kStep);
      const double tape = out.gradients[n][i];
      if (std::fabs(slope - tape) <= 1e-5 * std::fmax(1, std::fabs(tape))) continue;
      return fail(ErrorCode::kInternal, cat("the tape's gradient of input ", n, " at ", i, " is ",
                                            tape, ", finite differences say ", slope));
    }
  }
  return out;
}

}  // namespace lapidary::kernels
