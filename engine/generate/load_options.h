// What a model is loaded with.
#pragma once

#include <optional>
#include <string>

#include "engine/base/json.h"
#include "engine/generate/options.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/selftest.h"
#include "engine/model/decoder.h"

namespace lapidary::generate {

struct LoadOptions {
  uint32_t context = 0;  // 0: kDefaultContext, or the model's own if that is shorter
  uint32_t batch = 512;  // tokens of one prefill submission
  kernels::KvType kv_type = kernels::KvType::kF16;
  uint32_t sessions = 1;    // sequences that the KV cache holds
  std::string digest;       // "sha256:…" of the file; empty: unknown
  std::string name;         // as Ollama calls it: "gemma4:e2b" says which template the model speaks
  std::string system;       // used when a conversation brings none
  GenerateOptions options;  // defaults of the model's maker
  kernels::VariantWish variant;
  model::Cuts cuts;         // of kernels, found on this adapter before
  double tuning_ms = 0;     // how long to look for more
  uint32_t processors = 1;  // that compile kernels side by side meanwhile
  // Where the per-layer embedding is; nothing: on the GPU, unless memory runs out there.
  std::optional<model::TablePlace> per_layer;
  uint32_t drafter = 0;  // a byte source of a drafter's file; 0: none
  // The drafter was found beside the model, not asked for: one that does not fit is left out.
  bool drafter_optional = false;
  uint32_t draft_tokens = 0;           // that it guesses at a time; 0: as many as pay
  uint64_t gpu_memory = 0;             // bytes that the model may take there; 0: what there is
  bool encoders_as_llama_cpp = false;  // see Media
  uint32_t projector = 0;  // a byte source of the file that has the towers; 0: the model's own
};
inline constexpr uint32_t kDefaultContext = 8192;

// json: as TextModel::load has it. vocab: of the model. kInvalidArgument names the member.
Result<LoadOptions> parse_load_options(const Json& json, uint32_t vocab);

// Positions that a model is loaded with where `wanted` are asked for.
uint32_t usable_context(uint32_t wanted, const model::Config& config);
// Without the variant.
model::DecoderOptions decoder_options_of(const LoadOptions& options);

}  // namespace lapidary::generate
