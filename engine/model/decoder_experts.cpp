// The part of the decoder that runs a mixture of experts beside a layer's dense network (gemma4.md
// §4.4), whose output is in `delta` by then.
#include "engine/base/text.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/experts.h"
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
                                 bool one) {
  for (const ExpertMatrices::Part& part : matrices.parts) {
    spec.segments = part.segments;
    spec.experts->first = part.first;
    spec.experts->count = part.count;
    std::vector<gpu::Range> all{part.buffer};
    all.insert(all.end(), ranges.begin(), ranges.end());
    all.emplace_back(chosen);
    program.add(cache_, kernels::matvec_source(spec, options_.variant), std::move(all),
                [spec, one](uint32_t n) { return kernels::matvec_groups(spec, one ? 1 : n); });
  }
}

// input: a token's row every `input_stride` floats; norm: which passes the experts' norm first.
void Decoder::record_expert_matvecs(Program& program, size_t l, const Scratch& s,
                                    const gpu::Range& input, uint32_t input_stride, bool norm,
                                    bool one) {
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
  add_expert_matvecs(program, w.gate_up, gate_up, ranges, s.chosen, one);
  add_expert_matvecs(program, w.down, down, {s.expert_out, s.expert_ffn}, s.chosen, one);
}

// `current`: which of x holds the residual stream that the dense network started from.
void Decoder::record_experts(size_t l, Lane& lane, uint32_t current) {
  const Scratch& s = lane.s;
  const ExpertWeights& w = weights_.layers[l].experts;
  Program& program = lane.layers[l];
  const bool one = !lane.several();
  const MatvecSpec router{.segments = w.router.segments,
                          .cols = w.router.cols,
                          .prologue = Prologue::kNorm,
                          .eps = config_.rms_eps};
  record_matvec(lane, program, router,
                {w.router.buffer, s.router, s.x[current], vectors(w.before_router)});
  record_choice(program, l, s);
  record_expert_matvecs(program, l, s, s.x[current], config_.hidden, true, one);
  record_mix(program, l, s, lane.stride(s.delta));
}

void Decoder::record_batch_experts(size_t l, Program& program, uint32_t current) {
  const ExpertWeights& w = weights_.layers[l].experts;
  const gpu::Buffer& r = record_residual_norm(program, w.before_router, false, current);
  record_matmul(program, {.segments = w.router.segments, .cols = w.router.cols},
                {w.router.buffer, batch_.router, r, batch_.step});
  record_choice(program, l, batch_);
  const gpu::Buffer& n = record_residual_norm(program, w.before, false, current);
  record_expert_matvecs(program, l, batch_, n, config_.hidden, false, false);
  record_mix(program, l, batch_, config_.hidden);
}

}  // namespace lapidary::model
