// Compares a matmul with f64 loops: what the tests of its forms share.
#pragma once

#include <vector>

#include "engine/kernels/matmul.h"
#include "tests/kernels/groups.h"
#include "tests/kernels/kernel_test.h"

namespace lapidary::kernels {

// Runs spec for each token count with one kernel (and one that quantises) and compares every float
// of Y. `scale` is that of X.
Task<Status> expect_product(gpu::Device& device, const TrialGroup& group, MatmulSpec spec,
                            std::vector<uint32_t> counts, float scale = 1.0f);
// The same with a group made for spec.segments.
Task<Status> expect_product(gpu::Device& device, MatmulSpec spec, std::vector<uint32_t> counts,
                            float scale = 1.0f);

}  // namespace lapidary::kernels
