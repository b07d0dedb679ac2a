// Quantisers: f32 values into blocks, for adapters that are merged into a model's weights. Scales
// of Q4_0, Q5_0, Q4_K, Q5_K and Q6_K are searched: a few candidates for each block, fitted by least
// squares and never worse than the plain one, which keeps the largest value.
#pragma once

#include <span>
#include <vector>

#include "engine/base/error.h"
#include "engine/gguf/tensor_type.h"

namespace lapidary::gguf {

// F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K.
bool encodable(TensorType type);

// Encodes whole blocks of finite values. kUnsupported for types that are not encodable,
// kInvalidArgument if the values are not a whole number of blocks. Values that the type has no room
// for (above 65504 in F16) decode as infinities.
Result<std::vector<std::byte>> encode_block_row(TensorType type, std::span<const float> values);

}  // namespace lapidary::gguf
