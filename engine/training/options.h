// What a fine-tuning run is asked for, and the learning rate that follows from it step by step.
#pragma once

#include <string>
#include <vector>

#include "engine/adapter/adapter.h"
#include "engine/base/json.h"
#include "engine/dataset/reader.h"
#include "engine/dataset/split.h"

namespace lapidary::training {

inline constexpr uint32_t kMostRows = 1024;  // of a micro-batch

enum class Schedule : uint8_t { kConstant, kLinear, kCosine, kCosineRestarts };

struct FinetuneOptions {
  // The adapter.
  uint32_t rank = 16;
  float alpha = 32;
  bool rs_lora = false;
  float dropout = 0;                       // of its inputs, 0 to below 1
  std::vector<model::TensorRole> targets;  // q, k, v, o, gate, up, down unless told otherwise
  std::vector<uint32_t> layers;            // empty: all

  // The optimiser: AdamW.
  float learning_rate = 2e-4f;
  float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
  float weight_decay = 0.01f;
  float clip = 1;  // largest global norm of the gradients; 0: any
  Schedule schedule = Schedule::kCosine;
  float warmup = 0.03f;   // of all steps, 0 to below 1
  uint32_t restarts = 1;  // of kCosineRestarts: cycles
  float epochs = 3;
  uint32_t steps = 0;         // if not 0, instead of the epochs
  uint32_t rows = 1;          // of a micro-batch, each up to max_length tokens
  uint32_t accumulation = 1;  // micro-batches of a step
  bool pack = true;           // several examples in a row
  bool checkpointing = true;  // less memory, more time; equal bits
  uint64_t seed = 42;

  // The data.
  dataset::ReaderOptions data;
  dataset::EvalShare eval;
  uint32_t eval_every = 0;  // steps; 0: after every epoch

  // Reads {rank, alpha, rsLora, dropout, targets: ["q", …], layers: [0, …], learningRate, beta1,
  // beta2, epsilon, weightDecay, clip, schedule: "constant" | "linear" | "cosine" |
  // "cosine-restarts", warmup, restarts, epochs, steps, batch, accumulation, pack, checkpointing,
  // seed, maxLength, longExamples: "cut" | "split" | "drop", badLines: "fail" | "skip", supervise:
  // "all" | "last", evalFraction, evalCount, evalEvery}, all of them optional. kInvalidArgument
  // names an unknown key and a value out of its bounds. maxLength must be given.
  static Result<FinetuneOptions> parse(const Json& json);
};

// "q", "k", "v", "o", "gate", "up", "down", "per_layer_gate", "per_layer_projection", "head".
std::string_view target_name(model::TensorRole role);

// Of step `step`, from 0, of `steps`: linear from 0 over the warm-up, then as the schedule says,
// towards 0.
double learning_rate(const FinetuneOptions& options, uint32_t step, uint32_t steps);

// The adapter that training starts from: A uniform within ±1/sqrt(inputs), as PyTorch's Kaiming
// initialisation for linear layers has it, and B zero, so that it changes nothing yet. Equal seeds
// give equal adapters. kInvalidArgument: no matrix of the model is a target.
Result<adapter::LoraAdapter> initial_adapter(const model::Config& config,
                                             const FinetuneOptions& options);

}  // namespace lapidary::training
