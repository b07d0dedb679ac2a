// Records the programs of batches: the forward pass of gemma4.md §4 for many tokens at once, as
// decoder_record.cpp has it for one.
#include <cmath>

#include "engine/kernels/elementwise.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/quantize.h"
#include "engine/model/decoder.h"
#include "engine/model/group_spec.h"

namespace lapidary::model {
namespace {

using kernels::Epilogue;
using kernels::Groups;
using kernels::LowRankAddSpec;
using kernels::MatmulSpec;

}  // namespace

// Where the product has an integer form or the matrix form its input is quantised first. No two
// products of a layer have the same input.
void Decoder::record_matmul(Program& program, MatmulSpec spec, std::vector<gpu::Range> ranges,
                            const Change* change, bool adds, const MatrixGroup* group) {
  const bool split = group != nullptr && group->split();
  if (split) {
    spec.dot = kernels::matmul_forms(spec.segments, options_.variant)[0];
    spec.light = options_.variant.light;
  } else {
    tuner_.use(spec, ranges, batch_.quantized);
  }
  LowRankAddSpec add;
  std::vector<gpu::Range> add_ranges{ranges[1]};
  if (change != nullptr) {
    const MatmulSpec low{.segments = {{kernels::Codec::kF32, change->shape.rank(), 0}},
                         .cols = spec.cols,
                         .light = options_.variant.light};
    program.add(cache_, kernels::matmul_source(low),
                {change->a(), batch_low_, ranges[2], ranges.back()},
                [low](uint32_t tokens) { return kernels::matmul_groups(low, tokens); });
    add = {.change = change->shape,
           .epilogue = spec.epilogue,
           .cap = spec.cap,
           .mul_stride = spec.mul_stride,
           .mul_offset = spec.mul_offset};
    add_ranges.emplace_back(batch_low_);
    if (spec.epilogue == Epilogue::kGeglu) {
      add_ranges.push_back(ranges[1]);
      ranges[1] = add_ranges[0] = batch_raw_;
    } else if (spec.epilogue == Epilogue::kGeluMul) {
      add_ranges.push_back(ranges[3]);
      ranges.erase(ranges.begin() + 3);
    }
    spec.epilogue = Epilogue::kStore;
  }
  if (spec.dot != kernels::Dot::kF32) {
    const kernels::QuantizeSpec quantize{.cols = spec.cols, .dot = spec.dot, .light = spec.light};
    program.add(cache_, kernels::quantize_source(quantize),
                {ranges[2], batch_.quantized, ranges.back()},
                [quantize](uint32_t tokens) { return kernels::quantize_groups(quantize, tokens); });
    ranges[2] = batch_.quantized;
  }
  const auto multiply = [&](const MatmulSpec& one, std::vector<gpu::Range> bound) {
    program.add(cache_, kernels::matmul_source(one), std::move(bound),
                [one](uint32_t tokens) { return kernels::matmul_groups(one, tokens); });
  };
  if (split) {
    const uint32_t rows = kernels::output_rows(spec.segments, spec.epilogue);
    if (spec.y_stride == 0) spec.y_stride = rows;
    if (spec.mul_stride == 0) spec.mul_stride = rows;
    for_each_part(*group, spec, ranges, multiply);
  } else {
    multiply(spec, std::move(ranges));
  }
  if (change != nullptr && adds) record_add(program, add, *change, std::move(add_ranges), true);
}

// x_new = (x + rms(delta) * post) * scale and h = rms(x_new) * pre; without a pre norm x_new itself
// goes on.
const gpu::Buffer& Decoder::record_residual_norm(Program& program, const Site& site, bool has_delta,
                                                 uint32_t& current) {
  const kernels::ResidualNormSpec spec{config_.hidden, has_delta, site.has_post, site.has_pre,
                                       config_.rms_eps};
  std::vector<gpu::Range> ranges{batch_.x[current]};
  if (has_delta) ranges.push_back(batch_.delta);
  ranges.push_back(vectors(site));
  if (has_delta) {
    current ^= 1;
    ranges.push_back(batch_.x[current]);
  }
  if (site.has_pre) ranges.push_back(batch_.h);
  ranges.push_back(batch_.step);
  program.add(cache_, kernels::residual_norm_source(spec, options_.variant), std::move(ranges),
              [](uint32_t tokens) { return kernels::fold_groups(tokens); });
  return site.has_pre ? batch_.h : batch_.x[current];
}

namespace {

MatmulSpec batch_spec(const MatrixGroup& group) {
  MatmulSpec spec;
  spec.segments = group.segments;
  spec.cols = group.cols;
  return spec;
}

}  // namespace

void Decoder::record_batch_inputs(Program& program) {
  const auto hidden = static_cast<float>(config_.hidden);
  record_gather(program, weights_.token_embd, batch_.tokens, batch_.x[0], std::sqrt(hidden),
                batch_.step, false);
  if (config_.per_layer_dim == 0) return;
  record_gather(program, weights_.per_layer_token_embd, batch_.tokens, batch_.ple_tok,
                std::sqrt(static_cast<float>(config_.per_layer_dim)), batch_.step, false);
  record_batch_group(
      program, weights_.per_layer_model_proj, batch_spec(weights_.per_layer_model_proj),
      {weights_.per_layer_model_proj.buffer, batch_.ple_ctx, batch_.x[0], batch_.step});
  const kernels::PleCombineSpec combine{static_cast<uint32_t>(config_.layers.size()),
                                        config_.per_layer_dim, config_.hidden, config_.rms_eps};
  program.add(
      cache_, kernels::ple_combine_source(combine, options_.variant),
      std::vector<gpu::Range>{batch_.ple_ctx, batch_.ple_tok, vectors(weights_.per_layer_proj_norm),
                              batch_.ple, batch_.step},
      [layers = combine.layers](uint32_t tokens) { return Groups{layers, tokens, 1}; });
}

void Decoder::record_batch_layer(size_t l, Program& program, uint32_t& current) {
  const LayerWeights& w = weights_.layers[l];
  const kernels::AttentionSpec attention = attention_spec(l);
  const kernels::Variant& variant = options_.variant;
  const auto change = [&](Product product) { return stack_.find(l, product); };

  const gpu::Buffer& h = record_residual_norm(program, w.before_attention, l > 0, current);
  record_batch_group(program, w.qkv, batch_spec(w.qkv), {w.qkv.buffer, batch_.qkv, h, batch_.step},
                     change(Product::kQkv));
  std::vector<gpu::Range> post{batch_.qkv, vectors(w.qk_norms), weights_.rope(config_.layers[l])};
  if (!attention.shares_kv) post.insert(post.end(), {k_cache(l), v_cache(l)});
  post.insert(post.end(), {batch_.spans, batch_.step});
  program.add(cache_, kernels::qkv_post_source(attention, variant), std::move(post),
              [attention](uint32_t tokens) { return kernels::qkv_post_groups(attention, tokens); });
  std::vector<gpu::Range> seen{batch_.qkv, k_cache(l), v_cache(l), batch_.attention, batch_.spans};
  if (attention.both_ways) seen.emplace_back(batch_.last_seen);
  seen.emplace_back(batch_.step);
  program.add(cache_, kernels::attention_prefill_source(attention, variant), std::move(seen),
              [this, attention](uint32_t tokens) {
                return kernels::attention_prefill_groups(attention, tokens, spans_);
              });
  record_batch_group(program, w.output, batch_spec(w.output),
                     {w.output.buffer, batch_.delta, batch_.attention, batch_.step},
                     change(Product::kOutput));

  const gpu::Buffer& n = record_residual_norm(program, w.before_ffn, true, current);
  MatmulSpec gate_up = batch_spec(w.gate_up);
  gate_up.epilogue = Epilogue::kGeglu;
  record_batch_group(program, w.gate_up, gate_up, {w.gate_up.buffer, batch_.ffn, n, batch_.step},
                     change(Product::kGateUp));
  record_batch_group(program, w.down, batch_spec(w.down),
                     {w.down.buffer, batch_.delta, batch_.ffn, batch_.step},
                     change(Product::kDown));
  if (config_.experts.count > 0) record_batch_experts(l, program, current);

  if (config_.per_layer_dim == 0) return;
  const gpu::Buffer& x = record_residual_norm(program, w.before_ple, true, current);
  const gpu::AlignedRange ple = gpu::align({batch_.ple, 0, batch_.ple.size()},
                                           uint64_t{l} * config_.per_layer_dim * sizeof(float));
  MatmulSpec gate = batch_spec(w.ple_gate);
  gate.epilogue = Epilogue::kGeluMul;
  gate.mul_stride = static_cast<uint32_t>(config_.layers.size()) * config_.per_layer_dim;
  gate.mul_offset = ple.rest;
  record_batch_group(program, w.ple_gate, gate,
                     {w.ple_gate.buffer, batch_.ple_gate, x, ple.range, batch_.step},
                     change(Product::kPleGate));
  record_batch_group(program, w.ple_proj, batch_spec(w.ple_proj),
                     {w.ple_proj.buffer, batch_.delta, batch_.ple_gate, batch_.step},
                     change(Product::kPleProj));
}

// The head for the tokens of `step`: Y's rows have `stride` floats.
void Decoder::record_head(Program& program, const gpu::Range& h, const gpu::Buffer& logits,
                          const gpu::Buffer& step, uint32_t stride) {
  const Change* change = stack_.find(0, Product::kHead);
  const Epilogue epilogue = config_.softcap > 0 ? Epilogue::kSoftcap : Epilogue::kStore;
  for (const Table::Part& part : weights_.head().parts) {
    const bool first = &part == weights_.head().parts.data();
    MatmulSpec spec;
    spec.segments = {{weights_.head().codec, part.rows, 0}};
    spec.cols = config_.hidden;
    spec.epilogue = change != nullptr ? Epilogue::kStore : epilogue;
    spec.cap = config_.softcap;
    spec.y_stride = stride;
    spec.row_offset = part.row_begin;
    record_matmul(program, spec, {part.buffer, logits, h, step}, first ? change : nullptr, false);
  }
  if (change == nullptr) return;
  const LowRankAddSpec add{
      .change = change->shape, .epilogue = epilogue, .cap = config_.softcap, .y_stride = stride};
  record_add(program, add, *change, {logits, batch_low_}, true);
}

// The head over blocks of `rows` tokens, for the logits of all positions.
void Decoder::record_all_head(uint32_t rows) {
  const gpu::Buffer& h = *hidden_;
  const uint64_t block_bytes = uint64_t{rows} * config_.hidden * sizeof(float);
  for (uint64_t at = 0; at < h.size(); at += block_bytes)
    record_head(all_head_.emplace_back(), {h, at, h.size() - at}, all_logits_, all_step_,
                config_.vocab);
}

}  // namespace lapidary::model
