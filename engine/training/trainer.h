// Fine-tuning on the GPU: the loss of LoRA adapters on the text model and its exact gradients, over
// whole packed batches (gemma4.md §4; engine/reference/training.h is the same in double). The
// base's weights stay as they are, quantised or not.
//
// A micro-batch runs forward, layer by layer, and back in reverse. Kept from the way forward are
// the inputs of every layer; what lies within a layer is kept too or, with checkpointing, made
// again before its way back, by the same kernels: the gradients are equal bit for bit.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/kernels/attention.h"
#include "engine/kernels/elementwise_back.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/loss.h"
#include "engine/model/config.h"
#include "engine/model/program.h"
#include "engine/model/row_source.h"
#include "engine/model/weights.h"
#include "engine/training/parameters.h"

namespace lapidary::training {

// Bytes between small parameter blocks of one buffer: where a uniform binding may start.
inline constexpr uint32_t kSlot = 256;

struct TrainerOptions {
  uint32_t max_tokens = 1024;  // of a micro-batch; rounded up to a multiple of 64
  uint32_t head_rows = 512;    // supervised tokens whose logits are made at once
  uint32_t head_chunk = 8192;  // words of the vocabulary whose logits are made at once
  bool checkpointing = true;
  float dropout = 0;  // of the adapters' inputs, 0 to below 1
  kernels::Variant variant;
};

// Examples one after the other: tokens and targets of all of them, and how many tokens each has.
// targets[t]: the token that should follow token t; outside the vocabulary: not supervised.
struct MicroBatch {
  std::span<const uint32_t> tokens;
  std::span<const uint32_t> targets;
  std::span<const uint32_t> lengths;
};

struct StepReport {
  double loss = 0;           // the sum of what accumulate() added since the last step
  double gradient_norm = 0;  // before clipping
};

class Trainer {
 public:
  // Makes buffers, records the programs and compiles their kernels. `weights` must outlive it, and
  // `adapter` has passed check() against `config`. kUnsupported: the model has experts.
  // kOutOfMemory: a buffer exceeds the GPU's limits, or its memory does not suffice.
  static Task<Result<std::unique_ptr<Trainer>>> create(
      gpu::Device& device, kernels::KernelCache& cache, const model::Config& config,
      const model::Weights& weights, const adapter::LoraAdapter& adapter, TrainerOptions options);

  // Bytes on the GPU of what create() would make; nothing is made.
  static Result<uint64_t> estimate(gpu::Device& device, kernels::KernelCache& cache,
                                   const model::Config& config, const model::Weights& weights,
                                   const adapter::LoraAdapter& adapter, TrainerOptions options);
  // Whether create() would find room: allocates all of its buffers, and lets go of them.
  static Task<Status> try_allocate(gpu::Device& device, kernels::KernelCache& cache,
                                   const model::Config& config, const model::Weights& weights,
                                   const adapter::LoraAdapter& adapter, TrainerOptions options);

  // Adds factor times the sum of the losses of a micro-batch to the loss, and with `gradients` its
  // gradients to theirs. factor: 1 / supervised tokens of the whole batch. seed: of dropout; eval
  // has none. Returns when the GPU is done. kInvalidArgument: more than max_tokens, a token outside
  // the vocabulary, lengths that do not add up.
  Task<Status> accumulate(MicroBatch batch, float factor, bool gradients, uint32_t seed = 0);
  // One step of AdamW on what has gathered; gradients and loss start anew.
  Task<Result<StepReport>> step(const kernels::AdamParams& adam);
  // Gradients and loss start anew.
  void forget();
  // The loss that has gathered, which starts anew.
  Task<Result<double>> take_loss();

  Parameters& parameters() { return parameters_; }
  uint64_t bytes() const { return bytes_; }
  uint32_t max_tokens() const { return options_.max_tokens; }

 private:
  // What a layer's way back reads of its way forward.
  struct Activations {
    gpu::Buffer h1, qkv, q, k, v, attention, stats, d1, x1, h2, gate_up, ffn, d2, x2, z, g, d3, p;
  };
  // A matrix product of the model with the modules of its parts.
  struct Product {
    const model::MatrixGroup* group;
    std::vector<model::TensorRole> roles;  // of its segments
    uint32_t layer;
  };
  struct LayerPrograms {
    model::Program forward, back;
  };
  struct HeadChunk {
    uint32_t part, row, words;  // rows of a part of the head's table
    uint32_t first;             // word of the vocabulary
  };

  Trainer(gpu::Device& device, kernels::KernelCache& cache, const model::Config& config,
          const model::Weights& weights, TrainerOptions options);
  Result<gpu::Buffer> floats(uint64_t rows, uint64_t width, std::string_view label);
  Result<gpu::Buffer> make_buffer(uint64_t bytes, uint32_t usage, std::string_view label);
  Task<Status> allocate(const adapter::LoraAdapter& adapter);
  Status make_buffers();
  Status allocate_activations(Activations& s, std::span<const model::LayerConfig> layers);
  const gpu::Buffer& key(size_t layer) const;
  const gpu::Buffer& value(size_t layer) const;
  Activations& activations(size_t layer) {
    return activations_[options_.checkpointing ? 0 : layer];
  }
  gpu::Range vectors(const model::Site& site) const {
    return {weights_.vectors, site.offset, site.bytes};
  }
  const model::Site& end_site(size_t layer) const;
  bool is_shared(size_t layer) const;

  void record();
  void record_inputs();
  void record_norm(model::Program& program, const model::Site& site, bool has_delta, bool has_pre,
                   std::initializer_list<gpu::Range> ranges, bool back);
  void record_product(model::Program& program, const Product& product, const gpu::Buffer& x,
                      const gpu::Buffer& y, Activations& s);
  void record_product_back(model::Program& program, const Product& product, const gpu::Buffer& x,
                           const gpu::Buffer& dy, const gpu::Buffer* dx, bool accumulate,
                           Activations& s);
  void record_lora(model::Program& program, const Module& module, gpu::Range x, gpu::Range y,
                   uint32_t offset, uint32_t stride, gpu::Range p);
  void record_lora_back(model::Program& program, const Module& module, gpu::Range x, gpu::Range dy,
                        uint32_t offset, uint32_t stride, const gpu::Buffer* dx, gpu::Range p);
  void record_gemm(model::Program& program, const kernels::GemmSpec& spec,
                   std::initializer_list<gpu::Range> ranges, const gpu::Buffer& step);
  gpu::Range dropped(model::Program& program, const Module& module, gpu::Range x);
  void record_forward(size_t layer);
  void record_back(size_t layer);
  void record_attention_back(size_t layer, model::Program& program, Activations& s);
  void record_head();
  void record_head_logits(model::Program& program, size_t chunk);
  void record_head_back(size_t chunk);
  gpu::Range p_of(const Activations& s, const Module& module) const;
  gpu::Range head_step(size_t chunk, bool absolute) const;

  Status check(const MicroBatch& batch) const;
  Task<Status> write_inputs(const MicroBatch& batch);
  void submit(const model::Program& program, uint32_t n);
  Task<Status> run_head(const std::vector<uint32_t>& rows, const std::vector<uint32_t>& targets,
                        bool gradients);

  gpu::Device& device_;
  kernels::KernelCache& cache_;
  const model::Config& config_;
  const model::Weights& weights_;
  TrainerOptions options_;
  Parameters parameters_;
  std::unique_ptr<model::RowSource> rows_source_;
  bool planning_ = false;  // buffers are counted, not made
  uint64_t bytes_ = 0;
  uint32_t max_rank_ = 0;
  std::vector<uint32_t> p_offsets_;  // by module: floats into Activations::p

  gpu::Buffer tokens_, spans_, step_, result_, adam_, seed_, loss_params_;
  gpu::Buffer ple_token_, ple_context_, ple_;
  std::vector<gpu::Buffer> x_;  // by layer: its input; the last one is the final layer's output
  std::vector<gpu::Buffer> k_, v_, dk_, dv_;  // by layer, of those that others share
  std::vector<Activations> activations_;
  gpu::Buffer dk_own_, dv_own_;
  gpu::Buffer dx_, ddelta_, dh_, dwide_, dffn_, dq_, dattention_, dk_part_, dv_part_, dz_, dg_, dp_,
      dropped_, ddropped_;
  gpu::Buffer final_h_, dfinal_h_;
  gpu::Buffer rows_, targets_, head_h_, dhead_h_, head_p_, dhead_p_, logits_, state_, head_steps_,
      rows_step_;
  std::vector<HeadChunk> chunks_;
  gpu::Buffer gemms_;  // parameters of every product, in slots
  std::vector<std::byte> gemm_slots_;

  model::Program inputs_, head_begin_, head_rows_, head_loss_, head_scatter_, head_end_;
  std::vector<model::Program> head_forward_, head_back_;  // by chunk
  std::vector<LayerPrograms> layers_;
  gpu::CommandList list_;
};

}  // namespace lapidary::training
