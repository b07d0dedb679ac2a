// Compares what training kernels answer with f64: what their tests share.
#pragma once

#include <cmath>
#include <span>
#include <string_view>

#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {

// Every value within `tolerance` of what is wanted, relative to that or to the root mean square of
// all that is wanted, whichever is larger. kInternal names the first that is not.
inline Status expect_close(std::string_view what, std::span<const float> got,
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

// A uniform buffer of one struct, or one step.
template <typename T>
Result<gpu::Buffer> trial_params(gpu::Device& device, const T& params) {
  return trial_buffer(device, std::as_bytes(std::span(&params, 1)));
}

}  // namespace lapidary::kernels
