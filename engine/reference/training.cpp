// The forward pass of model.cpp on a tape, one sequence at a time.
#include "engine/reference/training.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <string>
#include <utility>

#include "engine/base/text.h"
#include "engine/reference/tape.h"

namespace lapidary::reference {

using model::LayerConfig;
using model::TensorRole;

namespace {

// The matrices of a module as variables, which collect gradients of every sequence.
struct Lora {
  explicit Lora(const LoraModule& m)
      : module(&m), a(m.rank, m.a.size() / m.rank), b(m.b.size() / m.rank, m.rank) {
    a.value = m.a;
    b.value = m.b;
  }
  const LoraModule* module;
  Variable a, b;
};

}  // namespace

// One sequence: gemma4.md §4, step by step as Pass in model.cpp.
class TrainingPass {
 public:
  TrainingPass(const ReferenceModel& m, std::deque<Lora>& loras, const TrainingSequence& sequence)
      : m_(m),
        config_(m.config_),
        eps_(m.config_.rms_eps),
        loras_(loras),
        sequence_(sequence),
        count_(sequence.tokens.size()) {}

  // The sum of the losses of its supervised targets, times factor, whose gradients are added to the
  // modules' if wanted.
  double run(double factor, bool gradients) {
    std::vector<size_t> rows;
    std::vector<uint32_t> targets;
    for (size_t t = 0; t < count_; ++t) {
      if (sequence_.targets[t] >= config_.vocab) continue;
      rows.push_back(t);
      targets.push_back(sequence_.targets[t]);
    }
    if (rows.empty()) return 0;

    x_ = embedding(m_.token_embd_, std::sqrt(static_cast<double>(config_.hidden)));
    if (config_.per_layer_dim > 0) per_layer_ = per_layer_inputs();
    caches_.resize(config_.layers.size());
    for (size_t i = 0; i < config_.layers.size(); ++i) layer(i);
    Variable* loss = tape_.cross_entropy(logits(std::move(rows)), std::move(targets), factor);
    if (gradients) tape_.backward(loss);
    return loss->value[0];
  }

 private:
  // W x and what the modules of this matrix add.
  Variable* project(TensorRole role, size_t layer, const Matrix& weight, Variable* x) {
    Variable* y = tape_.project(x, weight);
    for (Lora& lora : loras_) {
      if (lora.module->role != role || lora.module->layer != layer) continue;
      Variable* delta = tape_.project(tape_.project(x, &lora.a), &lora.b);
      y = tape_.add(y, delta, lora.module->scale);
    }
    return y;
  }
  Variable* norm(Variable* x, std::span<const float> weight, size_t group) {
    return tape_.rms_norm(x, weight, group, eps_);
  }
  Variable* norm(Variable* x, std::span<const float> weight) { return norm(x, weight, x->width); }

  // The tokens' rows of `table`, scaled.
  Variable* embedding(const Matrix& table, double scale) {
    Variable* x = tape_.leaf(count_, table.width());
    std::vector<float> scratch;
    for (size_t t = 0; t < count_; ++t) {
      const std::span<const float> row = table.row(sequence_.tokens[t], scratch);
      for (size_t i = 0; i < x->width; ++i) x->row(t)[i] = double{row[i]} * scale;
    }
    return x;
  }

  // §4.2. [tokens, layers * per_layer_dim]; no module can change it.
  Variable* per_layer_inputs() {
    const size_t dim = config_.per_layer_dim;
    Variable* context = tape_.scale(tape_.project(x_, m_.per_layer_model_proj_),
                                    1 / std::sqrt(static_cast<double>(config_.hidden)));
    Variable* token = embedding(m_.per_layer_token_embd_, std::sqrt(static_cast<double>(dim)));
    return tape_.scale(tape_.add(norm(context, m_.per_layer_proj_norm_, dim), token),
                       1 / std::sqrt(2.0));
  }

  // §4.3
  void layer(size_t i) {
    const LayerWeights& w = m_.layers_[i];
    Variable* o = project(TensorRole::kAttnOutput, i, w.attn_output, attend(i));
    x_ = tape_.add(x_, norm(o, w.post_attention_norm));

    Variable* n = norm(x_, w.ffn_norm);
    Variable* gate = tape_.gelu(project(TensorRole::kFfnGate, i, w.ffn_gate, n));
    Variable* up = project(TensorRole::kFfnUp, i, w.ffn_up, n);
    Variable* y = project(TensorRole::kFfnDown, i, w.ffn_down, tape_.multiply(gate, up));
    x_ = tape_.add(x_, norm(y, w.post_ffw_norm));

    if (config_.per_layer_dim > 0) {
      const size_t dim = config_.per_layer_dim;
      Variable* g = tape_.gelu(project(TensorRole::kInpGate, i, w.inp_gate, x_));
      g = tape_.multiply(g, tape_.columns(per_layer_, i * dim, dim));
      x_ = tape_.add(x_, norm(project(TensorRole::kProj, i, w.proj, g), w.post_norm));
    }
    x_ = tape_.scale(x_, w.output_scale);
  }

  Variable* attend(size_t i) {
    const LayerWeights& w = m_.layers_[i];
    const LayerConfig& layer = config_.layers[i];
    Variable* h = norm(x_, w.attn_norm);
    Variable* q = norm(project(TensorRole::kAttnQ, i, w.attn_q, h), w.attn_q_norm, layer.head_dim);
    if (!layer.shares_kv) {
      Variable* k = project(TensorRole::kAttnK, i, w.attn_k, h);
      Variable* v = layer.v_from_k ? k : project(TensorRole::kAttnV, i, w.attn_v, h);
      caches_[i].v = norm(v, {}, layer.head_dim);
      caches_[i].k = rotate(layer, norm(k, w.attn_k_norm, layer.head_dim));
    }
    const Cache& cache = caches_[layer.kv_source];
    const AttentionShape shape{config_.heads, layer.kv_heads, layer.head_dim,
                               layer.sliding ? config_.window : 0};
    return tape_.attention(shape, rotate(layer, q), cache.k, cache.v);
  }

  Variable* rotate(const LayerConfig& layer, Variable* x) {
    const std::span<const float> factors =
        layer.sliding ? std::span<const float>() : m_.rope_freqs_;
    return tape_.rope(x, layer.head_dim, config_.rope(layer).theta, factors);
  }

  // §4.6, of some positions.
  Variable* logits(std::vector<size_t> rows) {
    Variable* h = tape_.rows(norm(x_, m_.output_norm_), std::move(rows));
    const Matrix& head = m_.output_.empty() ? m_.token_embd_ : m_.output_;
    return tape_.softcap(project(TensorRole::kOutput, 0, head, h), config_.softcap);
  }

  struct Cache {
    Variable* k = nullptr;
    Variable* v = nullptr;
  };

  const ReferenceModel& m_;
  const model::Config& config_;
  double eps_;
  std::deque<Lora>& loras_;
  const TrainingSequence& sequence_;
  size_t count_;
  Tape tape_;
  Variable* x_ = nullptr;          // the residual stream
  Variable* per_layer_ = nullptr;  // [tokens, layers * per_layer_dim]
  std::vector<Cache> caches_;
};

namespace {

bool can_adapt(TensorRole role) {
  switch (role) {
    case TensorRole::kAttnQ:
    case TensorRole::kAttnK:
    case TensorRole::kAttnV:
    case TensorRole::kAttnOutput:
    case TensorRole::kFfnGate:
    case TensorRole::kFfnUp:
    case TensorRole::kFfnDown:
    case TensorRole::kInpGate:
    case TensorRole::kProj:
    case TensorRole::kOutput:
      return true;
    default:
      return false;
  }
}

Status check_module(const model::Config& config, const LoraModule& module) {
  const auto refuse = [](const std::string& message) {
    return fail(ErrorCode::kInvalidArgument, message);
  };
  if (!can_adapt(module.role)) {
    return refuse(cat("role ", static_cast<int>(module.role), " is of no matrix that LoRA adapts"));
  }
  const bool head = module.role == TensorRole::kOutput;
  if (module.layer >= (head ? 1 : config.layers.size())) {
    return refuse(cat("there is no layer ", module.layer, " to adapt"));
  }
  const int layer = static_cast<int>(module.layer);
  const std::string name = model::tensor_name(module.role, layer);
  if (model::tensor_need(config, module.role, layer) == model::TensorNeed::kNone) {
    return refuse(cat("the model does not use ", name, ": it cannot be adapted"));
  }
  const model::TensorShape shape = model::expected_shape(config, module.role, layer);
  const uint64_t rank = module.rank;
  if (rank == 0 || module.a.size() != rank * shape.dims[0] ||
      module.b.size() != rank * shape.dims[1]) {
    return refuse(cat("LoRA of ", name, " ", model::to_string(shape), ", rank ", rank, ": A has ",
                      module.a.size(), " values and B ", module.b.size()));
  }
  return {};
}

Status check_sequence(const model::Config& config, const TrainingSequence& sequence) {
  if (sequence.tokens.empty())
    return fail(ErrorCode::kInvalidArgument, "a sequence needs at least one token");
  if (sequence.targets.size() != sequence.tokens.size()) {
    return fail(
        ErrorCode::kInvalidArgument,
        cat(sequence.tokens.size(), " tokens need as many targets, not ", sequence.targets.size()));
  }
  for (const uint32_t id : sequence.tokens) {
    if (id >= config.vocab) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("token ", id, " is outside the vocabulary of ", config.vocab));
    }
  }
  return {};
}

Result<TrainingResult> train(const ReferenceModel& model, std::span<const LoraModule> modules,
                             std::span<const TrainingSequence> sequences, bool gradients) {
  const model::Config& config = model.config();
  if (config.experts.count > 0)
    return fail(ErrorCode::kUnsupported, "models with experts cannot be trained");
  for (const LoraModule& module : modules) TRY_VOID(check_module(config, module));
  TrainingResult result;
  for (const TrainingSequence& sequence : sequences) {
    TRY_VOID(check_sequence(config, sequence));
    for (const uint32_t target : sequence.targets) result.supervised += target < config.vocab;
  }
  std::deque<Lora> loras;
  for (const LoraModule& module : modules) loras.emplace_back(module);
  const double factor = 1 / static_cast<double>(std::max<size_t>(result.supervised, 1));
  for (const TrainingSequence& sequence : sequences) {
    result.loss += TrainingPass(model, loras, sequence).run(factor, gradients);
  }
  if (!gradients) return result;
  for (Lora& lora : loras) {
    result.gradients.push_back({std::move(lora.a.gradient), std::move(lora.b.gradient)});
  }
  return result;
}

}  // namespace

Result<TrainingResult> training_gradients(const ReferenceModel& model,
                                          std::span<const LoraModule> modules,
                                          std::span<const TrainingSequence> sequences) {
  return train(model, modules, sequences, true);
}

Result<TrainingResult> training_loss(const ReferenceModel& model,
                                     std::span<const LoraModule> modules,
                                     std::span<const TrainingSequence> sequences) {
  return train(model, modules, sequences, false);
}

}  // namespace lapidary::reference
