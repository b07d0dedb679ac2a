// How much GPU memory a model takes, told from its header before anything is loaded, and what of it
// stays on the GPU where a budget is smaller than that.
#pragma once

#include <optional>
#include <vector>

#include "engine/gguf/header.h"
#include "engine/gpu/device.h"
#include "engine/model/config.h"
#include "engine/model/decoder.h"
#include "engine/model/weights.h"

namespace lapidary::model {

// Bytes. Not counted: adapters, fine-tuning, what a tower computes with, the logits of all
// positions.
struct MemoryNeeds {
  WeightBytes weights;   // all of them on the GPU
  uint64_t towers = 0;   // that hear and see, as they lie in their file
  uint64_t drafter = 0;  // its weights, as they lie in its file
  uint64_t kv = 0;
  uint64_t scratch = 0;  // activations, logits, the step of several replies
  uint64_t staging = 0;  // while weights are loaded; KV cache and scratch are not there yet
  uint64_t stream_staging = 0;
  uint32_t experts = 0;  // of a layer; the next three are of a mixture of experts
  uint32_t experts_used = 0;
  uint64_t expert_slot = 0;  // room for an expert in each layer
  uint64_t expert_staging = 0;
  std::vector<std::vector<uint64_t>> layers;  // of weights: each layer's matrices, by buffer

  // Models of their own beside the weights.
  uint64_t beside() const { return towers + drafter; }
  uint64_t total() const { return weights.total() + beside() + kv + scratch; }
};

// limits: of the adapter. kOutOfMemory: something does not fit into one of its bindings.
Result<MemoryNeeds> measure_memory(const gpu::GpuInfo& limits, const gguf::Header& header,
                                   const Config& config, const DecoderOptions& options);
// Bytes of the tensors of a file that belong to towers.
uint64_t tower_bytes(const gguf::Header& header);

enum class Fit : uint8_t { kFits, kStreamed, kDoesNotFit };

struct MemoryPlan {
  Fit fit = Fit::kFits;
  WeightPlaces places;
  uint64_t bytes = 0;  // that it takes; where it does not fit, at the least
  uint64_t least = 0;  // with every layer streamed, or as few experts kept as a token needs
};

// per_layer: where the table is to be; nothing: where it fits. budget: bytes; 0: there is none.
// Experts go before layers: each layer then has as many slots for them as fit. The layers that stay
// are the first ones: a prompt's batches need no others in models whose later
// layers share keys and values.
MemoryPlan plan_memory(const MemoryNeeds& needs, std::optional<TablePlace> per_layer,
                       uint64_t budget);
// Why nothing can be done with `budget`: kOutOfMemory.
Error does_not_fit(const MemoryNeeds& needs, const MemoryPlan& plan, uint64_t budget);

}  // namespace lapidary::model
