// The LoRA adapters of a loaded model: read from files or given by a trainer, kept on the GPU,
// switched on and off between replies, several at once.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/adapter/adapter.h"
#include "engine/base/json.h"
#include "engine/generate/session.h"

namespace lapidary::generate {

// Of an adapter's file, and of its values in f32.
inline constexpr uint64_t kMaxAdapterBytes = 256 << 20;
inline constexpr uint64_t kMaxAdapterValues = 128 << 20;
// The largest scale, above or below zero, that a user may give.
inline constexpr double kMaxAdapterScale = 100;
inline constexpr size_t kMaxAdapters = 64;
inline constexpr uint32_t kMaxAdapterId = 1 << 30;

class Adapters {
 public:
  // All must outlive it. digest: of the model's file; empty: unknown.
  Adapters(gpu::Device& device, const model::Config& config, Session& session, std::string digest)
      : device_(device), config_(config), session_(session), digest_(std::move(digest)) {}

  // Puts an adapter on the GPU and on, at `scale` (times its own alpha / rank) beside those that
  // are on already. The result is its id, from 1. kIntegrity: it names another base than this
  // model; errors of adapter::check with the model, naming the tensor, of AdapterStack::create and
  // of Session::set_adapters. On an error nothing has changed. name: what describe() calls it if it
  // has no name.
  Task<Result<uint32_t>> add(const adapter::LoraAdapter& adapter, float scale,
                             std::string name = "");
  // The same from a byte source of the host: a GGUF LoRA, a PEFT adapter's safetensors, or
  // rullama's. options: {name, scale, config, id}; config: the text of adapter_config.json, which
  // PEFT needs; id: the one to have, above all before it (in another engine it had it). The result
  // is its description. Errors also of the readers; kCancelled.
  Task<Result<Json>> load(uint32_t source, Json options, std::function<bool()> cancelled);

  // [{id, scale}]: these are on, the others off. kInvalidArgument: an unknown id, one twice, a
  // scale out of range; a scale of 0 is off.
  Task<Status> set(Json request);
  // Switches an adapter off and frees its memory.
  Task<Status> remove(uint32_t id);

  // [{id, name, scale, rank, alpha, rsLora, baseModel, baseDigest, matrices, parameters,
  // gpuBytes}]; scale 0: off.
  Json describe() const;

 private:
  struct Loaded {
    uint32_t id = 0;
    Json description;
    std::string content;  // what it changes, in few words
    std::shared_ptr<const model::AdapterWeights> weights;
    float scale = 0;
  };
  // Makes `wanted` what is loaded, with the scales it says.
  Task<Status> apply(std::vector<Loaded> wanted);

  gpu::Device& device_;
  const model::Config& config_;
  Session& session_;
  std::string digest_;
  std::vector<Loaded> loaded_;
  uint32_t next_id_ = 1;
};

// Reads an adapter's file, whichever of the three kinds it is. config: as in Adapters::load.
Result<adapter::LoraAdapter> read_adapter(Bytes file, const std::string* config);
// The same from a byte source of the host. options: {config}.
Task<Result<adapter::LoraAdapter>> read_adapter_source(uint32_t source, Json options,
                                                       std::function<bool()> cancelled);
// The member `scale`, or `absent`; kInvalidArgument beyond kMaxAdapterScale.
Result<float> parse_adapter_scale(const Json& json, float absent);

}  // namespace lapidary::generate
