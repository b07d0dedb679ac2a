// A drafter on the GPU: guesses the next tokens of its target, a decoder, from the target's last
// hidden state, its token embedding and its KV cache (gemma4.md §4.9). Each guess is greedy. All
// guesses, and the target's run of them, are one submission.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/model/decoder.h"
#include "engine/model/drafter_config.h"

namespace lapidary::model {

class Drafter {
 public:
  // Loads the weights of `header` from byte source `source` and compiles the kernels, also those of
  // Decoder::verify. config: of check_drafter with the target's. The target must outlive it.
  // cancelled(): polled between pieces. Errors of load_weights and of the kernels.
  static Task<Result<std::unique_ptr<Drafter>>> create(gpu::Device& device,
                                                       kernels::KernelCache& cache,
                                                       const gguf::Header& header, Config config,
                                                       uint32_t source, Decoder& target,
                                                       std::function<bool()> cancelled);

  // Adapters that were set have changed the target: what verifies is made anew.
  Task<Status> prepare() { return target_.prepare_verify(); }

  // Where the hidden state is that gave the last token: row `row` of the last run(), or what
  // prefill() or decode() left.
  struct Hidden {
    bool verified = false;
    uint32_t row = 0;
  };
  // Guesses rows.size() - 1 tokens after rows[0].token, which has not run yet, and submits all of
  // them as Decoder::verify does; `out` is as it says. rows[0].position >= 1.
  Task<Status> run(std::span<const StepRow> rows, Hidden hidden, void* out, uint32_t ticket);

  uint64_t bytes() const { return weights_.bytes.total() + projection_bytes_ + scratch_bytes_; }
  uint32_t layers() const { return static_cast<uint32_t>(config_.layers.size()); }

 private:
  friend struct DraftProbe;  // tests/kernels/draft_probe.cpp

  Drafter(gpu::Device& device, kernels::KernelCache& cache, Config config, Decoder& target)
      : device_(device), cache_(cache), config_(std::move(config)), target_(target) {}
  Task<Status> load(const gguf::Header& header, uint32_t source, std::function<bool()> cancelled);
  Task<Status> shift_rope(const gpu::Buffer& table, uint32_t pairs);
  Status allocate();
  void record();
  void record_layer(size_t layer, uint32_t& current);
  void add(kernels::MatvecSpec spec, std::vector<gpu::Range> ranges);
  kernels::AttentionSpec attention_spec(size_t layer) const;
  gpu::Range vectors(const Site& site) const { return {weights_.vectors, site.offset, site.bytes}; }
  // Commands that leave `count` guesses after `token` at the start of guesses_.
  void draft(gpu::CommandList& list, const StepRow& first, const Hidden& hidden, uint32_t count);

  gpu::Device& device_;
  kernels::KernelCache& cache_;
  Config config_;
  Decoder& target_;
  Weights weights_;
  MatrixGroup pre_, post_;
  uint64_t projection_bytes_ = 0;
  uint64_t scratch_bytes_ = 0;
  gpu::Buffer token_, step_, counter_, guesses_;
  gpu::Buffer stream_;  // f32 [target hidden]: of the target, before its last norm
  gpu::Buffer normed_;  // the same, after it
  gpu::Buffer in_;      // f32 [2][target hidden]: the token's embedding, the hidden state
  gpu::Buffer x_[2], delta_, q_, attention_, stats_, ffn_, logits_, partial_;
  Program norm_, guess_;
};

}  // namespace lapidary::model
