// Whole quantised model files for tests, made from an F16 one rather than stored beside it.
#pragma once

#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/gguf/header.h"

namespace lapidary::reference {

// The model `file` (with header `header`) with every F16 matrix as Q8_0 or Q4_0, except
// per_layer_model_proj, which becomes BF16; its other tensors and its metadata as they are but for
// general.file_type. Blocks round exactly as llama-quantize's do (Q4_0: with --pure), so numbers
// made with its files hold for these. kUnsupported: another type; kInvalidArgument: a row that is
// not a whole number of blocks.
Result<std::vector<std::byte>> quantize_model(const gguf::Header& header, Bytes file,
                                              gguf::TensorType type);

}  // namespace lapidary::reference
