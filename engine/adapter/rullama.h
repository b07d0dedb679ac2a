// Adapters as rullama's trainer saves them: one safetensors file of the format "rullama-lora-v0".
#pragma once

#include "engine/adapter/adapter.h"
#include "engine/base/bytes.h"

namespace lapidary::adapter {

// Errors as read_peft(). Tensors are lora.blk.N.<module>.A and .B.
Result<LoraAdapter> read_rullama(Bytes safetensors);

}  // namespace lapidary::adapter
