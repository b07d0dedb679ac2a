// Compares a matmul with f64 loops: what the tests of its forms share.
#pragma once

#include <vector>

#include "engine/kernels/matmul.h"
#include "engine/kernels/selftest_matrix.h"
#include "tests/kernels/kernel_test.h"

namespace lapidary::kernels {

// Random matrices of these codecs and rows.
Task<Result<TrialGroup>> make_group(gpu::Device& device, std::vector<Segment> shapes,
                                    uint32_t cols);

// Runs spec for each token count with one kernel (and one that quantises) and compares every float
// of Y. `scale` is that of X.
Task<Status> expect_product(gpu::Device& device, const TrialGroup& group, MatmulSpec spec,
                            std::vector<uint32_t> counts, float scale = 1.0f);
// The same with a group made for spec.segments.
Task<Status> expect_product(gpu::Device& device, MatmulSpec spec, std::vector<uint32_t> counts,
                            float scale = 1.0f);

}  // namespace lapidary::kernels
