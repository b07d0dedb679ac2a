// Records the trainer's programs of the head and the loss (gemma4.md §4.6): a chunk of the
// vocabulary at a time, for supervised tokens alone.
#include "engine/kernels/matmul.h"
#include "engine/kernels/matmul_back.h"
#include "engine/training/trainer.h"

namespace lapidary::training {

using kernels::GemmSpec;
using kernels::LossSpec;
using model::Program;
using model::TensorRole;

namespace {

LossSpec loss_spec(const model::Config& config, const TrainerOptions& options) {
  return {.vocab = config.vocab, .chunk = options.head_chunk, .cap = config.softcap};
}

}  // namespace

void Trainer::record_head() {
  const kernels::Variant& variant = options_.variant;
  const size_t last = config_.layers.size();
  record_norm(head_begin_, weights_.before_head, false, true, {x_[last], final_h_}, false);
  record_norm(head_end_, weights_.before_head, false, true, {x_[last], dfinal_h_, dx_}, true);

  const auto copy = [&](Program& program, bool scatter, const gpu::Buffer& x,
                        const gpu::Buffer& y) {
    program.add(cache_, kernels::copy_rows_source(config_.hidden, scatter),
                std::vector<gpu::Range>{x, rows_, y, rows_step_},
                [this](uint32_t rows) { return kernels::copy_rows_groups(config_.hidden, rows); });
  };
  copy(head_rows_, false, final_h_, head_h_);
  const Module* m = parameters_.find(TensorRole::kOutput, 0);
  if (m != nullptr) {
    record_gemm(head_rows_,
                {.n = m->rank, .k = m->inputs, .a_m = m->inputs, .b_n = m->inputs, .c_m = m->rank},
                {head_h_, parameters_.a(*m), head_p_}, rows_step_);
  }
  head_forward_.resize(chunks_.size());
  head_back_.resize(chunks_.size());
  for (size_t c = 0; c < chunks_.size(); ++c) {
    record_head_logits(head_forward_[c], c);
    head_forward_[c].add(cache_,
                         kernels::cross_entropy_sum_source(loss_spec(config_, options_), variant),
                         std::vector<gpu::Range>{logits_, targets_, state_, head_step(c, true)},
                         [](uint32_t rows) { return kernels::cross_entropy_sum_groups(rows); });
    record_head_back(c);
  }
  head_loss_.add(cache_, kernels::cross_entropy_loss_source(loss_spec(config_, options_), variant),
                 {targets_, state_, result_, loss_params_, rows_step_}, kernels::Groups{});
  if (m != nullptr) {
    record_gemm(head_scatter_,
                {.m = m->rank,
                 .n = m->inputs,
                 .a_m = 1,
                 .a_k = m->rank,
                 .b_n = 1,
                 .b_k = m->inputs,
                 .c_m = m->inputs,
                 .accumulate = 1},
                {dhead_p_, head_h_, parameters_.a_gradient(*m)}, rows_step_);
    record_gemm(head_scatter_,
                {.n = m->inputs,
                 .k = m->rank,
                 .a_m = m->rank,
                 .b_n = 1,
                 .b_k = m->inputs,
                 .c_m = m->inputs,
                 .accumulate = 1},
                {dhead_p_, parameters_.a(*m), dhead_h_}, rows_step_);
  }
  copy(head_scatter_, true, dhead_h_, dfinal_h_);
}

// logits_ = the logits of a chunk before the softcap.
void Trainer::record_head_logits(Program& program, size_t c) {
  const HeadChunk& chunk = chunks_[c];
  const model::Table& table = weights_.head();
  const model::Table::Part& part = table.parts[chunk.part];
  kernels::MatmulSpec spec;
  spec.segments = {{table.codec, part.rows, 0}};
  spec.cols = config_.hidden;
  spec.y_stride = options_.head_chunk;
  spec.window = options_.head_chunk;
  spec.light = options_.variant.light;
  program.add(cache_, kernels::matmul_source(spec),
              std::vector<gpu::Range>{part.buffer, logits_, head_h_, head_step(c, false)},
              [spec](uint32_t rows) { return kernels::matmul_groups(spec, rows); });
  const Module* m = parameters_.find(TensorRole::kOutput, 0);
  if (m == nullptr) return;
  const uint64_t b_bytes = uint64_t{chunk.first} * m->rank * sizeof(float);
  const gpu::AlignedRange b = gpu::align(parameters_.b(*m), b_bytes);
  const GemmSpec gemm{.n = chunk.words,
                      .k = m->rank,
                      .a_m = m->rank,
                      .b_offset = b.rest,
                      .b_n = m->rank,
                      .c_m = options_.head_chunk,
                      .alpha = m->scale,
                      .accumulate = 1};
  record_gemm(program, gemm, {head_p_, b.range, logits_}, rows_step_);
}

// The chunk's logits once more, their gradients in place, and what those give to the head's input
// and its module.
void Trainer::record_head_back(size_t c) {
  Program& program = head_back_[c];
  const HeadChunk& chunk = chunks_[c];
  const model::Table& table = weights_.head();
  const model::Table::Part& part = table.parts[chunk.part];
  record_head_logits(program, c);
  const LossSpec loss = loss_spec(config_, options_);
  program.add(cache_, kernels::cross_entropy_back_source(loss, options_.variant),
              std::vector<gpu::Range>{logits_, targets_, state_, loss_params_, head_step(c, true)},
              [loss](uint32_t rows) { return kernels::cross_entropy_back_groups(loss, rows); });
  const kernels::MatmulBackSpec back{.segments = {{table.codec, part.rows, 0}},
                                     .cols = config_.hidden,
                                     .window = options_.head_chunk,
                                     .accumulate = c > 0};
  program.add(cache_, kernels::matmul_back_source(back, options_.variant),
              std::vector<gpu::Range>{part.buffer, dhead_h_, logits_, head_step(c, false)},
              [back](uint32_t rows) { return kernels::matmul_back_groups(back, rows); });
  const Module* m = parameters_.find(TensorRole::kOutput, 0);
  if (m == nullptr) return;
  const uint64_t b_bytes = uint64_t{chunk.first} * m->rank * sizeof(float);
  const gpu::AlignedRange b = gpu::align(parameters_.b(*m), b_bytes);
  record_gemm(program,
              {.n = m->rank,
               .k = chunk.words,
               .a_m = options_.head_chunk,
               .b_offset = b.rest,
               .b_n = 1,
               .b_k = m->rank,
               .c_m = m->rank,
               .alpha = m->scale,
               .accumulate = c > 0 ? 1u : 0u},
              {logits_, b.range, dhead_p_}, rows_step_);
  const gpu::AlignedRange db = gpu::align(parameters_.b_gradient(*m), b_bytes);
  record_gemm(program,
              {.m = chunk.words,
               .n = m->rank,
               .a_m = 1,
               .a_k = options_.head_chunk,
               .b_n = 1,
               .b_k = m->rank,
               .c_offset = db.rest,
               .c_m = m->rank,
               .alpha = m->scale,
               .accumulate = 1},
              {logits_, head_p_, db.range}, rows_step_);
}

}  // namespace lapidary::training
