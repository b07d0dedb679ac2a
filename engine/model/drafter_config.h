// What a drafter is: a small network that guesses the next tokens of a Gemma 4 model, its target
// (GGUF architecture "gemma4-assistant", gemma4.md §3.5, §4.9). It has no K and V of its own.
#pragma once

#include "engine/base/error.h"
#include "engine/gguf/header.h"
#include "engine/model/config.h"

namespace lapidary::model {

inline constexpr uint32_t kMaxDrafterLayers = 16;

// The drafter's own sizes. Every layer shares K/V: kv_source is the *target's* layer whose cache it
// reads, the last one of its kind with K/V of its own. window: keys of a sliding layer, one less
// than the target's: the query stands one position after the last key.
Result<Config> read_drafter_config(const gguf::Header& header, const Config& target);

// The width of nextn.pre_projection's input is two of the target's streams; of post_projection's
// output one.
inline constexpr std::string_view kPreProjection = "nextn.pre_projection.weight";
inline constexpr std::string_view kPostProjection = "nextn.post_projection.weight";

// read_drafter_config, and all tensors that the drafter needs. kUnsupported: another architecture
// or type; kNotFound: a key or tensor is missing; kInvalidFormat: one has not the size that the
// metadata or the target ask for.
Result<Config> check_drafter(const gguf::Header& header, const Config& target);

// Whether both files list the same tokens; true where the drafter's lists none. kInvalidFormat:
// they do not.
Status check_drafter_vocabulary(const gguf::Header& header, const gguf::Header& target);

}  // namespace lapidary::model
