// Random matrices on the GPU: what the tests of products multiply by.
#pragma once

#include <utility>
#include <vector>

#include "engine/kernels/selftest_matrix.h"

namespace lapidary::kernels {

// Of these codecs and rows; where a segment begins is chosen here.
inline Task<Result<TrialGroup>> make_group(gpu::Device& device, std::vector<Segment> shapes,
                                           uint32_t cols) {
  std::vector<TrialMatrix> matrices;
  uint32_t seed = 200;
  for (const Segment& shape : shapes)
    matrices.push_back(trial_matrix(shape.codec, shape.rows, cols, seed++));
  co_return co_await trial_group(device, std::move(matrices));
}

}  // namespace lapidary::kernels
