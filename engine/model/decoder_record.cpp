// Records the programs of decoding: which kernels run in which order on which buffers. Read top to
// bottom, this is the forward pass of gemma4.md §4. Its batches: decoder_record_batch.cpp.
#include <cmath>

#include "engine/kernels/elementwise.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/matvec.h"
#include "engine/model/decoder.h"
#include "engine/model/group_spec.h"

namespace lapidary::model {
namespace {

using kernels::Epilogue;
using kernels::Groups;
using kernels::LowRankAddSpec;
using kernels::MatvecSpec;
using kernels::Prologue;

}  // namespace

// --- One token, or one of each of several sequences ---

Decoder::Lane Decoder::one_lane() {
  return {.s = one_,
          .place = one_.step,
          .logits = logits_,
          .low = one_low_,
          .raw = one_raw_,
          .inputs = decode_inputs_,
          .layers = decode_layers_,
          .head = decode_head_};
}

void Decoder::record_gather(Program& program, const Table& table, const gpu::Buffer& tokens,
                            const gpu::Buffer& out, float scale, const gpu::Buffer& step,
                            bool one) {
  for (const Table::Part& part : table.parts) {
    const kernels::GatherSpec spec{table.codec, table.cols, scale, part.row_begin, part.rows};
    program.add(cache_, kernels::gather_source(spec),
                std::vector<gpu::Range>{part.buffer, tokens, out, step},
                [spec, one](uint32_t n) { return kernels::gather_groups(spec, one ? 1 : n); });
  }
}

Changes Decoder::changes(size_t layer, Product product, const gpu::Buffer* residual,
                         uint32_t pieces) const {
  const AdapterFusion::Fused* fused = fusion_.find(layer, product);
  const bool own = fused != nullptr && fused->shape.rank() > 0;
  return {.fused = fused,
          .change = own ? nullptr : stack_.find(layer, product),
          .residual = residual,
          .pieces = pieces};
}

// Of a product of several tokens, where each has its rows of what is bound.
kernels::TokenStrides Decoder::token_strides(const Lane& lane, const MatvecSpec& spec,
                                             const std::vector<gpu::Range>& ranges) {
  kernels::TokenStrides strides{.y = lane.stride(ranges[1]), .input = lane.stride(ranges[2])};
  size_t next = 3;
  switch (spec.prologue) {
    case Prologue::kPlain:
    case Prologue::kQuantized:
      break;
    case Prologue::kNorm:
      next = 4;  // after the site
      break;
    case Prologue::kResidualNorm:
      strides.delta = lane.stride(ranges[3]);
      strides.stream = lane.stride(ranges[5]);
      next = 6;
      break;
    case Prologue::kMerge:
      strides.stats = lane.stride(ranges[3]);
      next = 4;
      break;
  }
  if (spec.epilogue == Epilogue::kGeluMul) strides.mul = lane.stride(ranges[next++]);
  if (spec.fused.next_rank > 0) strides.stream = lane.stride(ranges[next + 1]);
  return strides;
}

uint32_t Decoder::record_matvec(Lane& lane, Program& program, MatvecSpec spec,
                                std::vector<gpu::Range> ranges, const Changes& changes, bool adds,
                                const MatrixGroup* group) {
  const bool split = group != nullptr && group->split();
  if (options_.variant.light) spec.tiling = kernels::light_tiling(spec);
  const Change* const change = changes.change;
  if (change == nullptr && changes.fused != nullptr) {
    spec.fused = changes.fused->shape;
    spec.fused.pieces = changes.pieces;
    // What q, k and v have of the output's change is attention's.
    if (spec.epilogue != Epilogue::kGeglu) spec.fused.handed_rank = 0;
  }
  if (spec.fused.any()) {
    std::vector<gpu::Range> more{changes.fused->buffer};
    if (spec.fused.next_rank > 0) more.push_back(*changes.residual);
    // The step is last.
    ranges.insert(ranges.end() - (spec.prologue == Prologue::kMerge ? 1 : 0), more.begin(),
                  more.end());
  }
  if (lane.several()) {
    tuner_.apply(spec);
  } else if (!split) {
    tuner_.use(spec, ranges);
  }
  LowRankAddSpec add;
  std::vector<gpu::Range> add_ranges{ranges[1], lane.low};
  if (change != nullptr) {
    MatvecSpec low = spec;
    low.segments = {{kernels::Codec::kF32, change->shape.rank(), 0}};
    low.epilogue = Epilogue::kStore;
    low.row_offset = 0;
    low.quantizes = false;
    low.tiling.reset();
    if (options_.variant.light) low.tiling = kernels::light_tiling(low);
    std::vector<gpu::Range> low_ranges = ranges;
    if (spec.epilogue == Epilogue::kGeluMul) low_ranges.pop_back();
    low_ranges[0] = change->a();
    low_ranges[1] = lane.low;
    lane.set_stride(lane.low, change->shape.rank());
    add_matvec(lane, program, low, std::move(low_ranges));
    add = {.change = change->shape,
           .epilogue = spec.epilogue,
           .cap = spec.cap,
           .y_stride = lane.stride(ranges[1]),
           .mul_offset = spec.mul_offset};
    if (spec.epilogue == Epilogue::kGeglu) {
      if (spec.quantizes) add.quantizes = options_.variant.dot;
      spec.quantizes = false;
      add.y_stride = 0;
      lane.set_stride(lane.raw, kernels::total_rows(spec.segments));
      add_ranges = {lane.raw, lane.low, ranges[1]};
      ranges[1] = lane.raw;
    } else if (spec.epilogue == Epilogue::kGeluMul) {
      add.mul_stride = lane.stride(ranges.back());
      add_ranges.push_back(ranges.back());
      ranges.pop_back();
    }
    spec.epilogue = Epilogue::kStore;
  }
  if (split) {
    for_each_part(*group, spec, ranges, [&](MatvecSpec part, std::vector<gpu::Range> bound) {
      part.tiling.reset();
      if (options_.variant.light) part.tiling = kernels::light_tiling(part);
      tuner_.apply(part);
      add_matvec(lane, program, part, std::move(bound));
    });
  } else {
    add_matvec(lane, program, spec, std::move(ranges));
  }
  if (change != nullptr && adds)
    record_add(program, add, *change, std::move(add_ranges), lane.several());
  return kernels::handed_pieces(spec);
}

void Decoder::add_matvec(const Lane& lane, Program& program, MatvecSpec spec,
                         std::vector<gpu::Range> ranges) {
  const bool several = lane.several();
  if (several) spec.tokens = token_strides(lane, spec, ranges);
  program.add(
      cache_, kernels::matvec_source(spec, options_.variant), std::move(ranges),
      [spec, several](uint32_t n) { return kernels::matvec_groups(spec, several ? n : 1); });
}

// ranges: y, and what comes after the change.
void Decoder::record_add(Program& program, LowRankAddSpec spec, const Change& change,
                         std::vector<gpu::Range> ranges, bool batch) {
  spec.light = options_.variant.light;
  ranges.insert(ranges.begin() + 1, change.b());
  program.add(
      cache_, kernels::low_rank_add_source(spec), std::move(ranges),
      [spec, batch](uint32_t n) { return kernels::low_rank_add_groups(spec, batch ? n : 1); });
}

void Decoder::record_decode(Lane& lane) {
  const Scratch& s = lane.s;
  const bool several = lane.several();
  const auto hidden = static_cast<float>(config_.hidden);
  record_gather(lane.inputs, weights_.token_embd, s.tokens, s.x[0], std::sqrt(hidden), s.step,
                !several);
  if (config_.per_layer_dim > 0) {
    record_gather(lane.inputs, weights_.per_layer_token_embd, s.tokens, s.ple_tok,
                  std::sqrt(static_cast<float>(config_.per_layer_dim)), s.step, !several);
    record_group(lane, lane.inputs, weights_.per_layer_model_proj,
                 group_spec(weights_.per_layer_model_proj, config_),
                 {weights_.per_layer_model_proj.buffer, s.ple_ctx, s.x[0]});
    const kernels::PleCombineSpec combine{static_cast<uint32_t>(config_.layers.size()),
                                          config_.per_layer_dim, config_.hidden, config_.rms_eps};
    lane.inputs.add(cache_, kernels::ple_combine_source(combine, options_.variant),
                    std::vector<gpu::Range>{s.ple_ctx, s.ple_tok,
                                            vectors(weights_.per_layer_proj_norm), s.ple, s.step},
                    [layers = combine.layers, several](uint32_t n) {
                      return Groups{layers, several ? n : 1, 1};
                    });
  }
  uint32_t current = 0;
  for (size_t l = 0; l < config_.layers.size(); ++l) {
    decode_entry_[l] = current;
    record_decode_layer(l, lane, current);
  }
  head_entry_ = current;
  const Change* change = stack_.find(0, Product::kHead);
  const Epilogue epilogue = config_.softcap > 0 ? Epilogue::kSoftcap : Epilogue::kStore;
  for (const Table::Part& part : weights_.head().parts) {
    const bool first = &part == weights_.head().parts.data();
    MatvecSpec spec;
    spec.segments = {{weights_.head().codec, part.rows, 0}};
    spec.cols = config_.hidden;
    spec.row_offset = part.row_begin;
    spec.eps = config_.rms_eps;
    spec.cap = config_.softcap;
    spec.epilogue = change != nullptr ? Epilogue::kStore : epilogue;
    set_site(spec, weights_.before_head);
    record_matvec(lane, lane.head, spec,
                  {part.buffer, lane.logits, s.x[current], s.delta, vectors(weights_.before_head),
                   s.x[current ^ 1]},
                  {.change = first ? change : nullptr}, false);
  }
  if (change == nullptr) return;
  record_add(lane.head,
             {.change = change->shape,
              .epilogue = epilogue,
              .cap = config_.softcap,
              .y_stride = lane.stride(lane.logits)},
             *change, {lane.logits, lane.low}, several);
}

// Seven dispatches at most; adapters that the kernels cannot fuse (adapter_fusion.h) take two more
// for each product that they change. `current`: which of x holds the residual stream; it
// changes with every update.
void Decoder::record_decode_layer(size_t l, Lane& lane, uint32_t& current) {
  const Scratch& s = lane.s;
  Program& program = lane.layers[l];
  const LayerWeights& w = weights_.layers[l];
  kernels::AttentionSpec attention = attention_spec(l);
  if (lane.several()) {
    lane.set_stride(s.qkv, attention.qkv_rows());
    // A change that is no kernel's own writes rows of their own width.
    if (fusion_.empty()) lane.set_stride(s.ffn, config_.layers[l].ffn);
  }

  MatvecSpec qkv = group_spec(w.qkv, config_);
  if (l == 0) {
    qkv.prologue = Prologue::kNorm;
    record_group(lane, program, w.qkv, qkv,
                 {w.qkv.buffer, s.qkv, s.x[current], vectors(w.before_attention)},
                 changes(l, Product::kQkv));
  } else {
    set_site(qkv, w.before_attention);
    record_group(
        lane, program, w.qkv, qkv,
        {w.qkv.buffer, s.qkv, s.x[current], s.delta, vectors(w.before_attention), s.x[current ^ 1]},
        changes(l, Product::kQkv));
    current ^= 1;
  }
  std::vector<gpu::Range> ranges{s.qkv,      vectors(w.qk_norms), weights_.rope(config_.layers[l]),
                                 k_cache(l), v_cache(l),          s.attention,
                                 s.stats};
  MatvecSpec output = group_spec(w.output, config_);
  output.prologue = Prologue::kMerge;
  output.heads = attention.heads;
  output.head_dim = attention.head_dim;
  output.window = attention.window;
  const std::vector<gpu::Range> output_ranges{w.output.buffer, s.delta, s.attention, s.stats,
                                              lane.place};
  if (lane.several()) {
    tuner_.apply(attention);
    lane.set_stride(s.stats, uint64_t{attention.tiling.splits} * attention.heads * 2);
  } else {
    std::vector<gpu::Range> tuned = ranges;
    tuned.emplace_back(lane.place);
    tuner_.use(attention, tuned, output, output_ranges);
  }
  output.attention = attention.tiling;
  kernels::FusedChange handed;
  if (const auto* fused = fusion_.find(l, Product::kQkv);
      fused != nullptr && fused->shape.handed_rank > 0) {
    handed = fused->shape;
    ranges.emplace_back(fused->buffer);
  }
  ranges.emplace_back(lane.place);
  if (lane.several()) {
    using kernels::OwnRows;
    const auto add_rows = [&](OwnRows own, GroupsOf groups) {
      program.add(cache_,
                  kernels::attention_rows_source(attention, options_.variant, handed,
                                                 lane.stride(s.attention), own),
                  ranges, std::move(groups));
    };
    const bool stores_first = lane.one_sequence && !attention.shares_kv;
    if (stores_first) {
      add_rows(OwnRows::kStore,
               [attention](uint32_t rows) { return kernels::stored_rows_groups(attention, rows); });
    }
    add_rows(stores_first ? OwnRows::kAfterwards : OwnRows::kBoth,
             [last = lane.last, attention](uint32_t rows) {
               return kernels::attention_rows_groups(attention, rows, *last);
             });
  } else {
    program.add(cache_, kernels::attention_decode_source(attention, options_.variant, handed),
                std::move(ranges), [attention](uint32_t position) {
                  return kernels::attention_decode_groups(attention, position);
                });
  }

  record_group(lane, program, w.output, output, output_ranges,
               changes(l, Product::kOutput, &s.x[current]));

  MatvecSpec gate_up = group_spec(w.gate_up, config_);
  MatvecSpec down = group_spec(w.down, config_);
  gate_up.epilogue = Epilogue::kGeglu;
  set_site(gate_up, w.before_ffn);
  // A of the change, in a kernel of its own, multiplies floats. What gate/up add in one is handed
  // over of one token only.
  const bool adds = lane.several() && changes(l, Product::kGateUp).change != nullptr;
  if (!adds && !w.gate_up.split() && !w.down.split() &&
      changes(l, Product::kDown).change == nullptr &&
      kernels::can_hand_over(gate_up, down, options_.variant)) {
    gate_up.quantizes = true;
    down.prologue = Prologue::kQuantized;
  }
  const uint32_t pieces = record_group(
      lane, program, w.gate_up, gate_up,
      {w.gate_up.buffer, s.ffn, s.x[current], s.delta, vectors(w.before_ffn), s.x[current ^ 1]},
      changes(l, Product::kGateUp));
  current ^= 1;
  record_group(lane, program, w.down, down, {w.down.buffer, s.delta, s.ffn},
               changes(l, Product::kDown, &s.x[current], pieces));
  if (config_.experts.count > 0) record_experts(l, lane, current);

  if (config_.per_layer_dim == 0) return;
  const gpu::AlignedRange ple =
      gpu::align({s.ple, 0, s.ple.size()}, uint64_t{l} * config_.per_layer_dim * sizeof(float));
  MatvecSpec gate = group_spec(w.ple_gate, config_);
  gate.epilogue = Epilogue::kGeluMul;
  gate.mul_offset = ple.rest;
  set_site(gate, w.before_ple);
  record_group(lane, program, w.ple_gate, gate,
               {w.ple_gate.buffer, s.ple_gate, s.x[current], s.delta, vectors(w.before_ple),
                s.x[current ^ 1], ple.range},
               changes(l, Product::kPleGate));
  current ^= 1;
  record_group(lane, program, w.ple_proj, group_spec(w.ple_proj, config_),
               {w.ple_proj.buffer, s.delta, s.ple_gate},
               changes(l, Product::kPleProj, &s.x[current]));
}

void Decoder::record_sampling() {
  const kernels::Variant& variant = options_.variant;
  adjust_.add(cache_, kernels::adjust_source(config_.vocab, variant),
              std::vector<gpu::Range>{logits_, adjust_entries_, adjust_params_},
              [](uint32_t entries) { return kernels::adjust_groups(entries); });
  argmax_.add(cache_, kernels::argmax_partial_source(config_.vocab, variant),
              {logits_, argmax_partial_}, kernels::argmax_groups(config_.vocab));
  argmax_.add(cache_, kernels::argmax_final_source(config_.vocab, variant),
              {argmax_partial_, one_.tokens, results_, one_.step}, Groups{});
  const kernels::TopkSpec topk{config_.vocab, topk_};
  sample_.add(cache_, kernels::topk_source(topk, variant), {logits_, topk_partial_, sample_params_},
              kernels::topk_groups(config_.vocab));
  sample_.add(cache_, kernels::sample_source(topk, variant),
              {topk_partial_, candidates_, logits_, sample_params_, draws_, one_.tokens, results_,
               one_.step},
              Groups{});
}

}  // namespace lapidary::model
