#include "engine/model/memory_plan.h"

#include <algorithm>
#include <numeric>

#include "engine/base/text.h"

namespace lapidary::model {
namespace {

// Bytes of the buffers that layers from `first` on share.
uint64_t shared_bytes(std::span<const std::vector<uint64_t>> layers) {
  std::vector<uint64_t> most;
  for (const std::vector<uint64_t>& layer : layers) {
    most.resize(std::max(most.size(), layer.size()));
    for (size_t i = 0; i < layer.size(); ++i) most[i] = std::max(most[i], layer[i]);
  }
  return std::reduce(most.begin(), most.end());
}

uint64_t layer_bytes(std::span<const std::vector<uint64_t>> layers) {
  uint64_t sum = 0;
  for (const std::vector<uint64_t>& layer : layers)
    sum = std::reduce(layer.begin(), layer.end(), sum);
  return sum;
}

// With `resident` layers that stay.
uint64_t bytes_with(const MemoryNeeds& needs, const WeightPlaces& places) {
  const std::span layers(needs.layers);
  uint64_t weights = needs.weights.total();
  if (places.per_layer == TablePlace::kSource) weights -= needs.weights.per_layer;
  const uint64_t others = needs.kv + needs.scratch;
  if (places.expert_slots > 0) {
    weights += places.expert_slots * needs.expert_slot - needs.weights.experts;
    return weights + needs.beside() + std::max(others + needs.expert_staging, needs.staging);
  }
  if (places.resident >= layers.size())
    return weights + needs.beside() + std::max(others, needs.staging);
  const auto streamed = layers.subspan(places.resident);
  weights = weights - layer_bytes(streamed) + shared_bytes(streamed);
  return weights + needs.beside() + std::max(others + needs.stream_staging, needs.staging);
}

}  // namespace

Result<MemoryNeeds> measure_memory(const gpu::GpuInfo& limits, const gguf::Header& header,
                                   const Config& config, const DecoderOptions& options) {
  gpu::Device device(limits);
  TRY(WeightShapes shapes,
      measure_weights(device, header, config, TablePlace::kGpu, options.context));
  MemoryNeeds needs{.weights = shapes.weights.bytes,
                    .staging = shapes.staging,
                    .stream_staging = shapes.stream_staging,
                    .experts = config.experts.count,
                    .experts_used = config.experts.used,
                    .expert_slot = shapes.expert_slot,
                    .expert_staging = shapes.expert_staging,
                    .layers = std::move(shapes.layers)};
  TRY(const Decoder::Needs decoder,
      Decoder::measure(device, config, std::move(shapes.weights), options));
  needs.kv = decoder.kv;
  needs.scratch = decoder.scratch;
  return needs;
}

uint64_t tower_bytes(const gguf::Header& header) {
  uint64_t sum = 0;
  for (const gguf::TensorInfo& tensor : header.tensors()) {
    const std::string_view name = tensor.name;
    if (name.starts_with("v.") || name.starts_with("a.") || name.starts_with("mm."))
      sum += tensor.bytes;
  }
  return sum;
}

MemoryPlan plan_memory(const MemoryNeeds& needs, std::optional<TablePlace> per_layer,
                       uint64_t budget) {
  MemoryPlan plan{.places = {.per_layer = per_layer.value_or(TablePlace::kGpu)}};
  const auto layers = static_cast<uint32_t>(needs.layers.size());
  const TablePlace smallest =
      per_layer.value_or(needs.weights.per_layer > 0 ? TablePlace::kSource : TablePlace::kGpu);
  plan.least = bytes_with(needs, {.per_layer = smallest, .resident = 0});
  if (needs.experts > 0) {
    plan.least = std::min(plan.least, bytes_with(needs, {.per_layer = smallest,
                                                         .resident = layers,
                                                         .expert_slots = needs.experts_used}));
  }
  const auto fits = [&] {
    plan.bytes = bytes_with(needs, plan.places);
    return budget == 0 || plan.bytes <= budget;
  };
  plan.places.resident = layers;
  if (fits()) return plan;
  // A row of the table is a little part of what a layer has.
  plan.places.per_layer = smallest;
  if (fits()) return plan;
  plan.fit = Fit::kStreamed;
  for (uint32_t slots = needs.experts; slots-- > std::max(needs.experts_used, 1u);) {
    plan.places.expert_slots = slots;
    if (fits()) return plan;
  }
  plan.places.expert_slots = 0;
  while (plan.places.resident > 0) {
    --plan.places.resident;
    if (fits()) return plan;
  }
  plan.fit = Fit::kDoesNotFit;
  return plan;
}

Error does_not_fit(const MemoryNeeds& needs, const MemoryPlan& plan, uint64_t budget) {
  const auto layers = static_cast<uint32_t>(needs.layers.size());
  const TablePlace table = plan.places.per_layer;
  const bool streams =
      bytes_with(needs, {.per_layer = table, .resident = 0}) == plan.least || needs.experts == 0;
  std::string text = cat("the model needs ", plan.least, " bytes of GPU memory at the least, with ",
                         streams ? "every layer" : "most experts", " read from its file, and ",
                         budget, " are allowed: ");
  uint64_t rest = plan.least;
  const auto say = [&](uint64_t bytes, std::string_view what) {
    if (bytes == 0) return;
    text += cat(bytes, " for ", what, ", ");
    rest -= std::min(rest, bytes);
  };
  say(needs.weights.tables, "tables");
  if (table == TablePlace::kGpu) say(needs.weights.per_layer, "per-layer embeddings");
  if (streams) {
    say(shared_bytes(needs.layers), "a layer");
    say(needs.stream_staging, "its way there");
  } else {
    say(needs.weights.dense, cat(layers, " layers"));
    say(needs.experts_used * needs.expert_slot, cat(needs.experts_used, " experts of each"));
    say(needs.expert_staging, "their way there");
  }
  say(needs.towers, "encoders of pictures and sound");
  say(needs.drafter, "the drafter");
  say(needs.kv, "the KV cache");
  say(needs.scratch, "activations");
  text +=
      cat(rest, " for the rest. A shorter context, fewer sessions or smaller batches need less");
  return {ErrorCode::kOutOfMemory, std::move(text)};
}

}  // namespace lapidary::model
