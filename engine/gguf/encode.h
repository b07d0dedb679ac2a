// Simple quantisers: valid blocks with a reasonable error, to make weights for tests. They do not
// search for the best scales as a production quantiser would, and the shipped engine never calls
// them.
#pragma once

#include <span>
#include <vector>

#include "engine/base/error.h"
#include "engine/gguf/tensor_type.h"

namespace lapidary::gguf {

// Encodes whole blocks of finite values. Types: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K,
// Q5_K, Q6_K; kUnsupported for others, kInvalidArgument if the values are not a whole number of
// blocks.
Result<std::vector<std::byte>> encode_block_row(TensorType type, std::span<const float> values);

}  // namespace lapidary::gguf
