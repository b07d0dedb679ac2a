// Adapters as llama.cpp keeps them: a GGUF file of the type "adapter".
#pragma once

#include <vector>

#include "engine/adapter/adapter.h"
#include "engine/base/bytes.h"

namespace lapidary::adapter {

// kUnsupported, by name, for what cannot be applied (another architecture or kind of adapter, other
// tensors, other types than F32, F16, BF16 and Q8_0); kInvalidFormat and kTruncated for damage.
Result<LoraAdapter> read_gguf_lora(Bytes file);

// F32; equal adapters give equal bytes. The format knows one alpha and no rsLoRA. Where all modules
// come out at one alpha under alpha / rank, that is written; else what a module's scale differs by
// goes into its B (kUnsupported if that overflows). Other errors are check()'s.
Result<std::vector<std::byte>> write_gguf_lora(const LoraAdapter& adapter);

}  // namespace lapidary::adapter
