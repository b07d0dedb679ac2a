// Records the trainer's programs of a layer: the forward pass of gemma4.md §4.3 with everything
// kept that its way back needs, and that way back, which reads bottom up.
#include <cmath>
#include <cstring>

#include "engine/kernels/attention_train.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/matmul_back.h"
#include "engine/training/trainer.h"

namespace lapidary::training {

using kernels::GemmSpec;
using kernels::Groups;
using model::LayerConfig;
using model::Program;
using model::TensorRole;

const gpu::Buffer& Trainer::key(size_t l) const {
  const size_t source = config_.layers[l].kv_source;
  if (k_[source]) return k_[source];
  return activations_[options_.checkpointing ? 0 : l].k;
}

const gpu::Buffer& Trainer::value(size_t l) const {
  const size_t source = config_.layers[l].kv_source;
  if (v_[source]) return v_[source];
  return activations_[options_.checkpointing ? 0 : l].v;
}

// The last norm and the scale of a layer lie where the next one begins.
const model::Site& Trainer::end_site(size_t l) const {
  return l + 1 < config_.layers.size() ? weights_.layers[l + 1].before_attention
                                       : weights_.before_head;
}

gpu::Range Trainer::p_of(const Activations& s, const Module& module) const {
  const auto index = static_cast<size_t>(&module - parameters_.modules().data());
  return {s.p, uint64_t{p_offsets_[index]} * sizeof(float),
          uint64_t{options_.max_tokens} * module.rank * sizeof(float)};
}

// ranges: as residual_norm_source or residual_norm_back_source binds them, without norms and step.
void Trainer::record_norm(Program& program, const model::Site& site, bool has_delta, bool has_pre,
                          std::initializer_list<gpu::Range> ranges, bool back) {
  const kernels::ResidualNormSpec spec{config_.hidden, has_delta, site.has_post, has_pre,
                                       config_.rms_eps};
  std::vector<gpu::Range> all(ranges);
  all.insert(all.begin() + (has_delta ? 2 : 1), vectors(site));
  all.emplace_back(step_);
  program.add(cache_,
              back ? kernels::residual_norm_back_source(spec, options_.variant)
                   : kernels::residual_norm_source(spec, options_.variant),
              std::move(all), [](uint32_t tokens) { return kernels::fold_groups(tokens); });
}

// ranges: A, B, C.
void Trainer::record_gemm(Program& program, const GemmSpec& spec,
                          std::initializer_list<gpu::Range> ranges, const gpu::Buffer& step) {
  const size_t at = gemm_slots_.size();
  gemm_slots_.resize(at + kSlot);
  std::memcpy(&gemm_slots_[at], &spec, sizeof(spec));
  std::vector<gpu::Range> all(ranges);
  all.emplace_back(gemms_, at, sizeof(spec));
  all.emplace_back(step);
  program.add(cache_, kernels::gemm_source(spec, options_.variant), std::move(all),
              [spec](uint32_t tokens) { return kernels::gemm_groups(spec, tokens); });
}

// x with values fallen out, or x itself.
gpu::Range Trainer::dropped(Program& program, const Module& module, gpu::Range x) {
  if (options_.dropout <= 0) return x;
  const kernels::DropoutSpec spec{
      .cols = module.inputs,
      .rate = options_.dropout,
      .salt = static_cast<uint32_t>(&module - parameters_.modules().data())};
  program.add(cache_, kernels::dropout_source(spec),
              std::vector<gpu::Range>{x, dropped_, seed_, step_},
              [spec](uint32_t tokens) { return kernels::dropout_groups(spec, tokens); });
  return dropped_;
}

// p = A x; columns [offset, offset + outputs) of y += scale B p.
void Trainer::record_lora(Program& program, const Module& m, gpu::Range x, gpu::Range y,
                          uint32_t offset, uint32_t stride, gpu::Range p) {
  record_gemm(program,
              {.n = m.rank, .k = m.inputs, .a_m = m.inputs, .b_n = m.inputs, .c_m = m.rank},
              {dropped(program, m, x), parameters_.a(m), p}, step_);
  record_gemm(program,
              {.n = m.outputs,
               .k = m.rank,
               .a_m = m.rank,
               .b_n = m.rank,
               .c_offset = offset,
               .c_m = stride,
               .alpha = m.scale,
               .accumulate = 1},
              {p, parameters_.b(m), y}, step_);
}

// dp = scale dy B; dB += scale dyᵀ p; dA += dpᵀ x; dx += dp A.
void Trainer::record_lora_back(Program& program, const Module& m, gpu::Range x, gpu::Range dy,
                               uint32_t offset, uint32_t stride, const gpu::Buffer* dx,
                               gpu::Range p) {
  record_gemm(program,
              {.n = m.rank,
               .k = m.outputs,
               .a_offset = offset,
               .a_m = stride,
               .b_n = 1,
               .b_k = m.rank,
               .c_m = m.rank,
               .alpha = m.scale},
              {dy, parameters_.b(m), dp_}, step_);
  record_gemm(program,
              {.m = m.outputs,
               .n = m.rank,
               .a_offset = offset,
               .a_m = 1,
               .a_k = stride,
               .b_n = 1,
               .b_k = m.rank,
               .c_m = m.rank,
               .alpha = m.scale,
               .accumulate = 1},
              {dy, p, parameters_.b_gradient(m)}, step_);
  record_gemm(program,
              {.m = m.rank,
               .n = m.inputs,
               .a_m = 1,
               .a_k = m.rank,
               .b_n = 1,
               .b_k = m.inputs,
               .c_m = m.inputs,
               .accumulate = 1},
              {dp_, dropped(program, m, x), parameters_.a_gradient(m)}, step_);
  if (dx == nullptr) return;
  const bool drops = options_.dropout > 0;
  record_gemm(program,
              {.n = m.inputs,
               .k = m.rank,
               .a_m = m.rank,
               .b_n = 1,
               .b_k = m.inputs,
               .c_m = m.inputs,
               .accumulate = drops ? 0u : 1u},
              {dp_, parameters_.a(m), drops ? ddropped_ : *dx}, step_);
  if (!drops) return;
  const kernels::DropoutSpec spec{.cols = m.inputs,
                                  .rate = options_.dropout,
                                  .salt = static_cast<uint32_t>(&m - parameters_.modules().data()),
                                  .accumulate = true};
  program.add(cache_, kernels::dropout_source(spec),
              std::vector<gpu::Range>{ddropped_, *dx, seed_, step_},
              [spec](uint32_t tokens) { return kernels::dropout_groups(spec, tokens); });
}

// y = W x and what the modules add.
void Trainer::record_product(Program& program, const Product& product, const gpu::Buffer& x,
                             const gpu::Buffer& y, Activations& s) {
  kernels::MatmulSpec spec;
  spec.segments = product.group->segments;
  spec.cols = product.group->cols;
  spec.light = options_.variant.light;
  program.add(cache_, kernels::matmul_source(spec),
              std::vector<gpu::Range>{product.group->buffer, y, x, step_},
              [spec](uint32_t tokens) { return kernels::matmul_groups(spec, tokens); });
  const uint32_t stride = kernels::total_rows(spec.segments);
  uint32_t offset = 0;
  for (size_t i = 0; i < product.roles.size(); ++i) {
    if (const Module* m = parameters_.find(product.roles[i], product.layer))
      record_lora(program, *m, x, y, offset, stride, p_of(s, *m));
    offset += spec.segments[i].rows;
  }
}

// The gradients of the modules, and where dx is wanted dx (+)= Wᵀ dy and what the modules add.
void Trainer::record_product_back(Program& program, const Product& product, const gpu::Buffer& x,
                                  const gpu::Buffer& dy, const gpu::Buffer* dx, bool accumulate,
                                  Activations& s) {
  const kernels::MatmulBackSpec spec{
      .segments = product.group->segments, .cols = product.group->cols, .accumulate = accumulate};
  if (dx != nullptr) {
    program.add(cache_, kernels::matmul_back_source(spec, options_.variant),
                std::vector<gpu::Range>{product.group->buffer, *dx, dy, step_},
                [spec](uint32_t tokens) { return kernels::matmul_back_groups(spec, tokens); });
  }
  const uint32_t stride = kernels::total_rows(spec.segments);
  uint32_t offset = 0;
  for (size_t i = 0; i < product.roles.size(); ++i) {
    if (const Module* m = parameters_.find(product.roles[i], product.layer))
      record_lora_back(program, *m, x, dy, offset, stride, dx, p_of(s, *m));
    offset += spec.segments[i].rows;
  }
}

void Trainer::record_inputs() {
  const auto gather = [&](const model::Table& table, const gpu::Buffer& out, float scale) {
    for (const model::Table::Part& part : table.parts) {
      const kernels::GatherSpec spec{table.codec, table.cols, scale, part.row_begin, part.rows};
      inputs_.add(cache_, kernels::gather_source(spec),
                  std::vector<gpu::Range>{part.buffer, tokens_, out, step_},
                  [spec](uint32_t tokens) { return kernels::gather_groups(spec, tokens); });
    }
  };
  gather(weights_.token_embd, x_[0], std::sqrt(static_cast<float>(config_.hidden)));
  if (config_.per_layer_dim == 0) return;
  gather(weights_.per_layer_token_embd, ple_token_,
         std::sqrt(static_cast<float>(config_.per_layer_dim)));
  Activations none;
  record_product(inputs_, {&weights_.per_layer_model_proj, {}, 0}, x_[0], ple_context_, none);
  const kernels::PleCombineSpec combine{static_cast<uint32_t>(config_.layers.size()),
                                        config_.per_layer_dim, config_.hidden, config_.rms_eps};
  inputs_.add(cache_, kernels::ple_combine_source(combine, options_.variant),
              std::vector<gpu::Range>{ple_context_, ple_token_,
                                      vectors(weights_.per_layer_proj_norm), ple_, step_},
              [layers = combine.layers](uint32_t tokens) { return Groups{layers, tokens, 1}; });
}

namespace {

std::vector<TensorRole> qkv_roles(const LayerConfig& layer) {
  if (layer.shares_kv) return {TensorRole::kAttnQ};
  if (layer.v_from_k) return {TensorRole::kAttnQ, TensorRole::kAttnK};
  return {TensorRole::kAttnQ, TensorRole::kAttnK, TensorRole::kAttnV};
}

kernels::GateSpec ffn_gate(const LayerConfig& layer) {
  return {.width = layer.ffn, .z_stride = 2 * layer.ffn, .mul_offset = layer.ffn};
}

kernels::GateSpec ple_gate(const model::Config& config, size_t layer) {
  const uint32_t width = config.per_layer_dim;
  return {.width = width,
          .z_stride = width,
          .mul_stride = static_cast<uint32_t>(config.layers.size()) * width,
          .mul_offset = static_cast<uint32_t>(layer) * width};
}

}  // namespace

void Trainer::record_forward(size_t l) {
  Program& program = layers_[l].forward;
  Activations& s = activations(l);
  const model::LayerWeights& w = weights_.layers[l];
  const auto layer = static_cast<uint32_t>(l);
  const kernels::AttentionSpec attention = model::attention_shape(config_, weights_, l);
  const kernels::Variant& variant = options_.variant;

  record_norm(program, w.before_attention, false, true, {x_[l], s.h1}, false);
  record_product(program, {&w.qkv, qkv_roles(config_.layers[l]), layer}, s.h1, s.qkv, s);
  std::vector<gpu::Range> heads{s.qkv, vectors(w.qk_norms), weights_.rope(config_.layers[l]),
                                spans_, s.q};
  if (!attention.shares_kv) heads.insert(heads.end(), {key(l), value(l)});
  heads.emplace_back(step_);
  program.add(cache_, kernels::qkv_train_source(attention, variant), std::move(heads),
              [=](uint32_t tokens) { return kernels::qkv_train_groups(attention, tokens); });
  program.add(cache_, kernels::attention_train_source(attention, variant),
              std::vector<gpu::Range>{s.q, key(l), value(l), spans_, s.attention, s.stats, step_},
              [=](uint32_t tokens) { return kernels::attention_train_groups(attention, tokens); });
  record_product(program, {&w.output, {TensorRole::kAttnOutput}, layer}, s.attention, s.d1, s);

  record_norm(program, w.before_ffn, true, true, {x_[l], s.d1, s.x1, s.h2}, false);
  record_product(program, {&w.gate_up, {TensorRole::kFfnGate, TensorRole::kFfnUp}, layer}, s.h2,
                 s.gate_up, s);
  const kernels::GateSpec gate = ffn_gate(config_.layers[l]);
  program.add(cache_, kernels::gate_source(gate), std::vector<gpu::Range>{s.gate_up, s.ffn, step_},
              [=](uint32_t tokens) { return kernels::gate_groups(gate, tokens); });
  record_product(program, {&w.down, {TensorRole::kFfnDown}, layer}, s.ffn, s.d2, s);
  if (config_.per_layer_dim == 0) {
    record_norm(program, end_site(l), true, false, {s.x1, s.d2, x_[l + 1]}, false);
    return;
  }
  record_norm(program, w.before_ple, true, false, {s.x1, s.d2, s.x2}, false);
  record_product(program, {&w.ple_gate, {TensorRole::kInpGate}, layer}, s.x2, s.z, s);
  const kernels::GateSpec ple = ple_gate(config_, l);
  program.add(cache_, kernels::gate_source(ple), std::vector<gpu::Range>{s.z, ple_, s.g, step_},
              [=](uint32_t tokens) { return kernels::gate_groups(ple, tokens); });
  record_product(program, {&w.ple_proj, {TensorRole::kProj}, layer}, s.g, s.d3, s);
  record_norm(program, end_site(l), true, false, {s.x2, s.d3, x_[l + 1]}, false);
}

void Trainer::record_back(size_t l) {
  Program& program = layers_[l].back;
  Activations& s = activations(l);
  const model::LayerWeights& w = weights_.layers[l];
  const auto layer = static_cast<uint32_t>(l);
  if (config_.per_layer_dim > 0) {
    record_norm(program, end_site(l), true, false, {s.d3, s.d3, dx_, ddelta_}, true);
    record_product_back(program, {&w.ple_proj, {TensorRole::kProj}, layer}, s.g, ddelta_, &dg_,
                        false, s);
    const kernels::GateSpec ple = ple_gate(config_, l);
    program.add(cache_, kernels::gate_back_source(ple),
                std::vector<gpu::Range>{s.z, ple_, dg_, dz_, step_},
                [=](uint32_t tokens) { return kernels::gate_groups(ple, tokens); });
    record_product_back(program, {&w.ple_gate, {TensorRole::kInpGate}, layer}, s.x2, dz_, &dx_,
                        true, s);
    record_norm(program, w.before_ple, true, false, {s.d2, s.d2, dx_, ddelta_}, true);
  } else {
    record_norm(program, end_site(l), true, false, {s.d2, s.d2, dx_, ddelta_}, true);
  }
  record_product_back(program, {&w.down, {TensorRole::kFfnDown}, layer}, s.ffn, ddelta_, &dffn_,
                      false, s);
  const kernels::GateSpec gate = ffn_gate(config_.layers[l]);
  program.add(cache_, kernels::gate_back_source(gate),
              std::vector<gpu::Range>{s.gate_up, dffn_, dwide_, step_},
              [=](uint32_t tokens) { return kernels::gate_groups(gate, tokens); });
  record_product_back(program, {&w.gate_up, {TensorRole::kFfnGate, TensorRole::kFfnUp}, layer},
                      s.h2, dwide_, &dh_, false, s);
  record_norm(program, w.before_ffn, true, true, {s.x1, s.d1, dh_, dx_, ddelta_}, true);
  record_product_back(program, {&w.output, {TensorRole::kAttnOutput}, layer}, s.attention, ddelta_,
                      &dattention_, false, s);
  record_attention_back(l, program, s);
}

void Trainer::record_attention_back(size_t l, Program& program, Activations& s) {
  const kernels::AttentionSpec attention = model::attention_shape(config_, weights_, l);
  const kernels::Variant& variant = options_.variant;
  const size_t source = config_.layers[l].kv_source;
  const gpu::Buffer& dk = dk_[source] ? dk_[source] : dk_own_;
  const gpu::Buffer& dv = dv_[source] ? dv_[source] : dv_own_;
  // The first of the layers that share, on the way back, is the last.
  bool accumulate = false;
  for (size_t later = l + 1; later < config_.layers.size(); ++later)
    accumulate = accumulate || config_.layers[later].kv_source == source;

  program.add(cache_, kernels::attention_delta_source(attention, variant),
              std::vector<gpu::Range>{dattention_, s.attention, s.stats, step_},
              [=](uint32_t tokens) { return kernels::attention_delta_groups(attention, tokens); });
  const auto blocks = [=](uint32_t tokens) {
    return kernels::attention_train_groups(attention, tokens);
  };
  program.add(
      cache_, kernels::attention_back_source(attention, variant),
      std::vector<gpu::Range>{s.q, key(l), value(l), spans_, dattention_, s.stats, dq_, step_},
      blocks);
  program.add(cache_, kernels::attention_back_kv_source(attention, variant),
              std::vector<gpu::Range>{s.q, key(l), value(l), spans_, dattention_, s.stats, dk_part_,
                                      dv_part_, step_},
              blocks);
  program.add(cache_, kernels::sum_heads_source(attention, accumulate),
              std::vector<gpu::Range>{dk_part_, dv_part_, dk, dv, step_},
              [=](uint32_t tokens) { return kernels::sum_heads_groups(attention, tokens); });

  const model::LayerWeights& w = weights_.layers[l];
  std::vector<gpu::Range> heads{s.qkv, vectors(w.qk_norms), weights_.rope(config_.layers[l]),
                                spans_, dq_};
  if (!attention.shares_kv) heads.insert(heads.end(), {dk, dv});
  heads.insert(heads.end(), {dwide_, step_});
  program.add(cache_, kernels::qkv_back_source(attention, variant), std::move(heads),
              [=](uint32_t tokens) { return kernels::qkv_back_groups(attention, tokens); });
  // The embedding is not trained: what comes before the first layer needs no gradient.
  record_product_back(program, {&w.qkv, qkv_roles(config_.layers[l]), static_cast<uint32_t>(l)},
                      s.h1, dwide_, l > 0 ? &dh_ : nullptr, false, s);
  if (l > 0) record_norm(program, w.before_attention, false, true, {x_[l], dh_, dx_}, true);
}

void Trainer::record() {
  record_inputs();
  uint32_t lowest = static_cast<uint32_t>(layers_.size());
  for (const Module& m : parameters_.modules())
    if (m.role != TensorRole::kOutput) lowest = std::min(lowest, m.layer);
  for (size_t l = 0; l < layers_.size(); ++l) {
    record_forward(l);
    if (l >= lowest) record_back(l);
  }
  record_head();
}

}  // namespace lapidary::training
