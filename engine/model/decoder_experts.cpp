// The part of the decoder that runs a mixture of experts beside a layer's dense network (gemma4.md
// §4.4), whose output is in `delta` by then.
#include <algorithm>

#include "engine/base/text.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/experts.h"
#include "engine/kernels/quantize.h"
#include "engine/model/decoder.h"

namespace lapidary::model {
namespace {

using kernels::ChooseExpertsSpec;
using kernels::Epilogue;
using kernels::MatmulSpec;
using kernels::MatvecSpec;
using kernels::MixExpertsSpec;
using kernels::Prologue;

// Workgroups in one dimension of a dispatch: a batch has one for each of a token's experts.
constexpr uint64_t kMaxGroups = 65535;

}  // namespace

Status Decoder::allocate_experts(Scratch& s, uint32_t tokens) {
  const Experts& experts = config_.experts;
  const uint64_t rows = uint64_t{tokens} * experts.used;
  if (rows > kMaxGroups) {
    return fail(ErrorCode::kInvalidArgument,
                cat("batches of ", tokens, " tokens with ", experts.used,
                    " experts each are too large; at most ", kMaxGroups / experts.used,
                    " tokens are possible"));
  }
  TRY(s.router, buffer(uint64_t{tokens} * experts.count * sizeof(float), gpu::kStorageUsage,
                       "logits of experts"));
  TRY(s.chosen,
      buffer(kernels::chosen_bytes(experts.used, tokens), gpu::kStorageUsage, "chosen experts"));
  TRY(s.expert_ffn,
      buffer(rows * experts.ffn * sizeof(float), gpu::kStorageUsage, "activations of experts"));
  TRY(s.expert_out,
      buffer(rows * config_.hidden * sizeof(float), gpu::kStorageUsage, "outputs of experts"));
  return {};
}

void Decoder::record_choice(Program& program, size_t l, const Scratch& s) {
  const ChooseExpertsSpec spec{.count = config_.experts.count, .used = config_.experts.used};
  const bool one = &s == &one_;
  program.add(cache_, kernels::choose_experts_source(spec, options_.variant),
              std::vector<gpu::Range>{s.router, vectors(weights_.layers[l].experts.scales),
                                      s.chosen, s.step},
              [one](uint32_t n) { return kernels::fold_groups(one ? 1 : n); });
}

void Decoder::record_mix(Program& program, size_t l, const Scratch& s, uint32_t delta_stride) {
  const MixExpertsSpec spec{.cols = config_.hidden,
                            .used = config_.experts.used,
                            .delta_stride = delta_stride,
                            .eps = config_.rms_eps};
  const bool one = &s == &one_;
  program.add(cache_, kernels::mix_experts_source(spec, options_.variant),
              std::vector<gpu::Range>{s.expert_out, s.chosen,
                                      vectors(weights_.layers[l].experts.after), s.delta, s.step},
              [one](uint32_t n) { return kernels::fold_groups(one ? 1 : n); });
}

// ranges: y, and what follows it but `chosen`.
void Decoder::add_expert_matvecs(Program& program, const ExpertMatrices& matrices, MatvecSpec spec,
                                 const std::vector<gpu::Range>& ranges, const gpu::Buffer& chosen,
                                 ExpertRun run) {
  for (const ExpertMatrices::Part& part : matrices.parts) {
    spec.segments = part.segments;
    spec.experts->first = part.first;
    spec.experts->count = part.count;
    std::vector<gpu::Range> all{part.buffer};
    all.insert(all.end(), ranges.begin(), ranges.end());
    all.emplace_back(chosen);
    program.add(cache_, kernels::matvec_source(spec, options_.variant), std::move(all),
                [this, spec, run](uint32_t n) {
                  if (run == ExpertRun::kBatch && sorts_experts(n)) return kernels::Groups{.x = 0};
                  return kernels::matvec_groups(spec, run == ExpertRun::kOne ? 1 : n);
                });
  }
}

// input: a token's row every `input_stride` floats; norm: which passes the experts' norm first.
void Decoder::record_expert_matvecs(Program& program, size_t l, const Scratch& s,
                                    const gpu::Range& input, uint32_t input_stride, bool norm,
                                    ExpertRun run) {
  const ExpertWeights& w = weights_.layers[l].experts;
  const uint32_t ffn = config_.experts.ffn;
  const uint32_t used = config_.experts.used;
  MatvecSpec gate_up{.segments = w.gate_up.parts[0].segments,
                     .cols = w.gate_up.cols,
                     .prologue = norm ? Prologue::kNorm : Prologue::kPlain,
                     .epilogue = Epilogue::kGeglu,
                     .eps = config_.rms_eps,
                     .tokens = kernels::TokenStrides{.y = ffn, .input = input_stride},
                     .experts = kernels::ExpertRows{
                         .used = used, .stride = w.gate_up.stride, .shared_input = true}};
  MatvecSpec down{.segments = w.down.parts[0].segments,
                  .cols = w.down.cols,
                  .tokens = kernels::TokenStrides{.y = config_.hidden, .input = ffn},
                  .experts = kernels::ExpertRows{.used = used, .stride = w.down.stride}};
  if (options_.variant.light) {
    gate_up.tiling = kernels::light_tiling(gate_up);
    down.tiling = kernels::light_tiling(down);
  }
  if (kernels::can_hand_over(gate_up, down, options_.variant)) {
    gate_up.quantizes = true;
    down.prologue = Prologue::kQuantized;
  }
  std::vector<gpu::Range> ranges{s.expert_ffn, input};
  if (norm) ranges.push_back(vectors(w.before));
  add_expert_matvecs(program, w.gate_up, gate_up, ranges, s.chosen, run);
  add_expert_matvecs(program, w.down, down, {s.expert_out, s.expert_ffn}, s.chosen, run);
}

// The form of a batch's products, of all layers and both products, whose tiles are the same. These
// products are not tuned.
kernels::Dot Decoder::expert_form() const {
  std::vector<kernels::Segment> all;
  for (const LayerWeights& layer : weights_.layers) {
    for (const ExpertMatrices* matrices : {&layer.experts.gate_up, &layer.experts.down})
      all.insert(all.end(), matrices->parts[0].segments.begin(), matrices->parts[0].segments.end());
  }
  const std::vector<kernels::Dot> forms = kernels::matmul_forms(all, options_.variant);
  return std::ranges::contains(forms, kernels::Dot::kMatrix) ? kernels::Dot::kMatrix
                                                             : forms.front();
}

uint32_t Decoder::known_experts() const {
  return weights_.experts != nullptr ? weights_.experts->slots() + 1 : config_.experts.count;
}

// What comes before the choice runs; then its experts are brought to slots, in rounds where a batch
// needs more of them than there are; in each round the products leave alone what is not of it.
Task<Status> Decoder::record_with_experts(const Program& program, size_t l, uint32_t n,
                                          const gpu::Buffer& chosen, uint32_t tokens) {
  ExpertCache& experts = *weights_.experts;
  const size_t begin = program.marks().front();
  const size_t end = program.marks().back();
  std::vector<ExpertCache::Route> routes(size_t{tokens} * config_.experts.used);
  const auto bytes = static_cast<uint32_t>(std::as_bytes(std::span(routes)).size());
  for (size_t i = 0; i < begin; ++i) program.record_step(i, list_, cache_, n);
  list_.end_pass();
  gpu::HostFuture read;
  list_.read(chosen, 0, bytes, routes.data(), read.start());
  device_.submit(list_);
  list_.reset();
  CO_TRY_VOID(co_await read);
  for (const ExpertCache::Route& route : routes) {
    if (route.expert >= config_.experts.count)
      co_return fail(ErrorCode::kGpu, cat("the GPU chose expert ", route.expert));
  }
  for (const std::vector<uint32_t>& round : experts.rounds(l, routes)) {
    CO_TRY_VOID(co_await experts.load(l, round));
    const std::vector<ExpertCache::Route> placed = experts.placed(l, round, routes);
    device_.write(chosen, 0, std::as_bytes(std::span(placed)));
    list_.begin_pass();
    for (size_t i = begin; i < end; ++i) program.record_step(i, list_, cache_, n);
    list_.end_pass();
    device_.submit(list_);
    list_.reset();
  }
  list_.begin_pass();
  for (size_t i = end; i < program.size(); ++i) program.record_step(i, list_, cache_, n);
  co_return Status{};
}

kernels::SortExpertsSpec Decoder::sort_spec() const {
  return {.count = known_experts(),
          .used = config_.experts.used,
          .tile = kernels::tile_tokens(kernels::MatmulTiling{}, expert_form())};
}

// Whether an expert has so many tokens that tiles of them are worth their sorting.
bool Decoder::sorts_experts(uint32_t tokens) const {
  constexpr uint64_t kEnough = 4;
  return uint64_t{tokens} * config_.experts.used >= kEnough * config_.experts.count;
}

Status Decoder::allocate_expert_tiles(Scratch& s, uint32_t tokens) {
  TRY(s.tiles, buffer(uint64_t{kernels::expert_tiles(sort_spec(), tokens)} * 16, gpu::kStorageUsage,
                      "tiles of experts"));
  TRY(s.order, buffer(uint64_t{tokens} * config_.experts.used * sizeof(uint32_t),
                      gpu::kStorageUsage, "order of experts"));
  return {};
}

void Decoder::add_expert_matmuls(Program& program, const ExpertMatrices& matrices, MatmulSpec spec,
                                 const gpu::Range& y, const gpu::Range& x) {
  spec.cols = matrices.cols;
  spec.dot = expert_form();
  spec.light = options_.variant.light;
  spec.experts->used = config_.experts.used;
  spec.experts->all = known_experts();
  spec.experts->stride = matrices.stride;
  gpu::Range input = x;
  if (spec.dot != kernels::Dot::kF32) {
    const kernels::QuantizeSpec quantize{
        .cols = spec.cols,
        .dot = spec.dot,
        .light = spec.light,
        .each = spec.experts->shared_input ? 1 : config_.experts.used};
    program.add(cache_, kernels::quantize_source(quantize),
                std::vector<gpu::Range>{x, batch_.quantized, batch_.step},
                [this, quantize](uint32_t tokens) {
                  return sorts_experts(tokens) ? kernels::quantize_groups(quantize, tokens)
                                               : kernels::Groups{.x = 0};
                });
    input = batch_.quantized;
  }
  for (const ExpertMatrices::Part& part : matrices.parts) {
    spec.segments = part.segments;
    spec.experts->first = part.first;
    spec.experts->count = part.count;
    program.add(
        cache_, kernels::matmul_source(spec),
        std::vector<gpu::Range>{part.buffer, y, input, batch_.tiles, batch_.order, batch_.step},
        [this, spec](uint32_t tokens) {
          return sorts_experts(tokens) ? kernels::matmul_groups(spec, tokens)
                                       : kernels::Groups{.x = 0};
        });
  }
}

// As record_expert_matvecs, where the batch is large enough.
void Decoder::record_expert_matmuls(Program& program, size_t l, const gpu::Range& input) {
  const ExpertWeights& w = weights_.layers[l].experts;
  program.add(
      cache_, kernels::sort_experts_source(sort_spec(), options_.variant),
      std::vector<gpu::Range>{batch_.chosen, batch_.tiles, batch_.order, batch_.step},
      [this](uint32_t tokens) { return kernels::Groups{.x = sorts_experts(tokens) ? 1u : 0u}; });
  add_expert_matmuls(
      program, w.gate_up,
      {.epilogue = Epilogue::kGeglu, .experts = kernels::ExpertRows{.shared_input = true}},
      batch_.expert_ffn, input);
  add_expert_matmuls(program, w.down, {.experts = kernels::ExpertRows{}}, batch_.expert_out,
                     batch_.expert_ffn);
}

// `current`: which of x holds the residual stream that the dense network started from.
void Decoder::record_experts(size_t l, Lane& lane, uint32_t current) {
  const Scratch& s = lane.s;
  const ExpertWeights& w = weights_.layers[l].experts;
  Program& program = lane.layers[l];
  const ExpertRun run = lane.several() ? ExpertRun::kStep : ExpertRun::kOne;
  const MatvecSpec router{.segments = w.router.segments,
                          .cols = w.router.cols,
                          .prologue = Prologue::kNorm,
                          .eps = config_.rms_eps};
  record_group(lane, program, w.router, router,
               {w.router.buffer, s.router, s.x[current], vectors(w.before_router)});
  record_choice(program, l, s);
  program.mark();
  record_expert_matvecs(program, l, s, s.x[current], config_.hidden, true, run);
  program.mark();
  record_mix(program, l, s, lane.stride(s.delta));
}

void Decoder::record_batch_experts(size_t l, Program& program, uint32_t current) {
  const ExpertWeights& w = weights_.layers[l].experts;
  const gpu::Buffer& r = record_residual_norm(program, w.before_router, false, current);
  record_batch_group(program, w.router, {.segments = w.router.segments, .cols = w.router.cols},
                     {w.router.buffer, batch_.router, r, batch_.step});
  record_choice(program, l, batch_);
  program.mark();
  const gpu::Buffer& n = record_residual_norm(program, w.before, false, current);
  record_expert_matvecs(program, l, batch_, n, config_.hidden, false, ExpertRun::kBatch);
  record_expert_matmuls(program, l, n);
  program.mark();
  record_mix(program, l, batch_, config_.hidden);
}

}  // namespace lapidary::model
