// Fine-tuning in plain loops: the loss of LoRA adapters on a dense text model and its exact
// gradients, which tests compare the GPU with. Weights are decoded as in model.h and constant;
// activations, adapters and gradients are double throughout, so that differences of the loss can
// confirm its gradients.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/error.h"
#include "engine/model/tensor_table.h"
#include "engine/reference/model.h"

namespace lapidary::reference {

// A low-rank term of one matrix of the model: y = W x + scale B (A x). Several of one matrix add
// up. Where V is made of the K projection (LayerConfig::v_from_k), a term of attn_k changes both.
struct LoraModule {
  // kAttnQ, kAttnK, kAttnV, kAttnOutput, kFfnGate, kFfnUp, kFfnDown, kInpGate, kProj of a layer
  // that has it; or kOutput, the head: if it is tied to the embedding, the embedding of inputs
  // stays as it is.
  model::TensorRole role{};
  uint32_t layer = 0;  // 0 for kOutput
  uint32_t rank = 0;
  double scale = 1;       // alpha / rank
  std::vector<double> a;  // [rank, inputs], row-major
  std::vector<double> b;  // [outputs, rank], row-major
};

inline constexpr uint32_t kUnsupervised = UINT32_MAX;

// tokens[0] is at position 0. targets[t] is the token that the logits at position t, which have
// seen tokens 0 … t, should predict: tokens[t + 1] as a rule (Hugging Face's labels[t + 1]). A
// target outside the vocabulary, such as kUnsupervised, adds nothing to the loss.
struct TrainingSequence {
  std::vector<uint32_t> tokens;
  std::vector<uint32_t> targets;
};

struct LoraGradient {
  std::vector<double> a;  // dL/dA, of A's shape
  std::vector<double> b;  // dL/dB, of B's shape
};

struct TrainingResult {
  double loss = 0;
  size_t supervised = 0;                // targets that count
  std::vector<LoraGradient> gradients;  // one a module, in their order
};

// The loss is the mean over all supervised targets of all sequences of -log softmax(logits)[target]
// with softcapped logits; tokens that the model suppresses in replies count like all others, as in
// training elsewhere. Without a supervised target loss and gradients are 0. Sequences do not see
// each other. kUnsupported: the model has experts. kInvalidArgument: a module of a matrix that the
// model lacks or a layer does not use, or of a wrong shape; a sequence without tokens, with a token
// outside the vocabulary or with another number of targets.
Result<TrainingResult> training_gradients(const ReferenceModel& model,
                                          std::span<const LoraModule> modules,
                                          std::span<const TrainingSequence> sequences);

// The same loss alone: gradients stay empty.
Result<TrainingResult> training_loss(const ReferenceModel& model,
                                     std::span<const LoraModule> modules,
                                     std::span<const TrainingSequence> sequences);

}  // namespace lapidary::reference
