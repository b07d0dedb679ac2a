// Reference decoding of every block format to f32, bit-exact to ggml. The GPU codecs are tested
// against it.
#pragma once

#include <span>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/gguf/tensor_type.h"

namespace lapidary::gguf {

// Decodes whole blocks: out.size() elements from `in`, which holds exactly tensor_bytes(type,
// out.size()) bytes at any alignment. kUnsupported if the type has no decoder
// (TensorTypeInfo::decodable), kInvalidArgument if the sizes do not fit each other.
Status decode_block_row(TensorType type, Bytes in, std::span<float> out);

}  // namespace lapidary::gguf
