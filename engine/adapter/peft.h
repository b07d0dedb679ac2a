// Adapters as Hugging Face's PEFT keeps them: adapter_model.safetensors and adapter_config.json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/adapter/adapter.h"
#include "engine/base/bytes.h"

namespace lapidary::adapter {

inline constexpr size_t kMaxPeftConfigBytes = 256 << 10;

// kUnsupported, by name, for what cannot be applied (DoRA, biases, whole modules, other targets,
// start values that change the base); kInvalidFormat and kTruncated for damage.
Result<LoraAdapter> read_peft(Bytes safetensors, std::string_view config);

struct PeftFiles {
  std::vector<std::byte> model;  // adapter_model.safetensors, F32
  std::string config;            // adapter_config.json
};
// How Transformers names the layers: as the text model alone does, or as the multimodal one.
enum class PeftNames : uint8_t { kText, kMultimodal };
// Equal adapters give equal bytes. The error is check()'s.
Result<PeftFiles> write_peft(const LoraAdapter& adapter, PeftNames names = PeftNames::kText);

}  // namespace lapidary::adapter
