// The text decoder on the GPU: batched prefill and one-token decode over one KV cache (gemma4.md
// §4).
//
// Two programs share weights and cache. The batch program runs T tokens through the layers that
// compute K and V. The decode program runs one token through all layers and the head. A prompt's
// last token enters the decode program where the batch program ends: the layers that share K/V, and
// the head, run for that token alone.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engine/kernels/attention.h"
#include "engine/kernels/experts.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/matvec.h"
#include "engine/kernels/sampling.h"
#include "engine/kernels/step.h"
#include "engine/model/adapter_fusion.h"
#include "engine/model/adapter_stack.h"
#include "engine/model/config.h"
#include "engine/model/program.h"
#include "engine/model/row_source.h"
#include "engine/model/tuner.h"
#include "engine/model/weights.h"

namespace lapidary::model {

struct DecoderOptions {
  uint32_t context = 4096;   // positions of the KV cache
  uint32_t max_batch = 512;  // tokens of one prefill submission
  kernels::KvType kv_type = kernels::KvType::kF16;
  uint32_t sequences = 1;  // that the KV cache holds, each with `context` positions
  kernels::Variant variant;
  Cuts cuts;                // found before on this adapter; where absent, the shape decides
  double tuning_ms = 0;     // how long to look for others
  uint32_t processors = 1;  // that compile kernels side by side meanwhile
};

// What a submission does with the logits of its last token.
enum class Choose : uint8_t {
  kNothing,
  kArgmax,  // the best token goes to the token buffer, and its id is read back: 4 bytes
  // The token drawn goes to the token buffer, and its id is read back, kNoToken when the candidates
  // did not suffice: 4 bytes.
  kSample,
  kSampleTopk,  // the same, but header and candidates (kernels/sampling.h) are read back
  kLogits,      // all logits are read back: 4 * vocab bytes
};

// Ids from here on stand for soft tokens: positions whose rows of the residual stream come from
// elsewhere (a picture), not from the token embedding. Ids say which row it is, so that equal ones
// may share K and V, in this process or by a snapshot in another; as tokens they count as padding
// (id 0).
inline constexpr uint32_t kSoftToken = 1u << 31;

enum class SoftKind : uint8_t { kImage, kAudio };

// Rows of the soft tokens of one image, or of audio: those of positions [position, position + rows)
// of a sequence.
struct SoftRows {
  uint32_t position = 0;
  uint32_t rows = 0;
  std::shared_ptr<const gpu::Buffer> values;  // f32 [rows][hidden], not scaled
  SoftKind kind = SoftKind::kImage;

  uint32_t end() const { return position + rows; }
};

// Tokens of one sequence, from `position` on, for a batch that may hold those of several.
struct Prompt {
  uint32_t sequence = 0;
  uint32_t position = 0;
  std::span<const uint32_t> tokens;
  std::span<const SoftRows> soft;  // for every soft token among them
};

// Where the answer of a submission goes. `address` must stay valid until `ticket` is resumed.
struct Readback {
  Choose choose = Choose::kNothing;
  uint32_t adjust_entries = 0;  // of set_adjustments, applied to the logits first
  void* address = nullptr;
  uint32_t ticket = 0;
};

// How adapters change a product of one token: by the product's own kernel, or by two dispatches
// before and after it; not at all where both are absent. residual: the stream behind the product,
// which a fused change of the next one reads; pieces: what gate/up handed over.
struct Changes {
  const AdapterFusion::Fused* fused = nullptr;
  const AdapterStack::Change* change = nullptr;
  const gpu::Buffer* residual = nullptr;
  uint32_t pieces = 0;
};

// A token of one sequence in a step that runs those of several.
struct StepRow {
  uint32_t sequence = 0;
  uint32_t position = 0;
  uint32_t token = 0;
  // Penalties and biases of its logits, as set_adjustments has them (Decoder::check_adjustments).
  std::span<const kernels::AdjustEntry> adjustments;
  kernels::AdjustParams adjust;  // entries: their number
  kernels::SampleParams sampling;
  kernels::Draw draw;
};

// Guesses of a drafter that run at once, and tokens with the one before them.
inline constexpr uint32_t kMaxDrafted = 8;
inline constexpr uint32_t kMaxVerified = kMaxDrafted + 1;

// Rows of K and of V that a layer keeps of its own, one a position.
struct KvRows {
  uint32_t layer = 0;
  bool sliding = false;
  uint32_t slots = 0;  // of a sequence; position p is in slot p % slots
  uint32_t bytes = 0;  // of a row
};

class Decoder {
 public:
  // Allocates buffers, records the programs and compiles their kernels.
  static Task<Result<std::unique_ptr<Decoder>>> create(
      gpu::Device& device, kernels::KernelCache& cache, const Config& config, Weights weights,
      const DecoderOptions& options, std::function<void(uint32_t, uint32_t)> progress);
  // GPU memory that it would take beside the weights: the KV cache, and the rest.
  struct Needs {
    uint64_t kv = 0, scratch = 0;
  };
  // device: one that makes nothing; weights: of measure_weights.
  static Result<Needs> measure(gpu::Device& device, const Config& config, Weights weights,
                               const DecoderOptions& options);

  uint32_t max_batch() const { return options_.max_batch; }
  // Whether tokens of an image see each other both ways, in layers that slide. Then a submission
  // holds all of an image or nothing of it.
  bool sees_both_ways() const { return config_.image_bidirectional && window() > 0; }
  // The most tokens of such an image.
  uint32_t most_image_tokens() const;
  // Makes room for batches of as many tokens, at most most_image_tokens(), if there is none. None
  // may be under way. What the KV cache holds stays. kOutOfMemory: everything is as it was.
  Task<Status> reserve_batch(uint32_t tokens);
  uint32_t context() const { return options_.context; }
  uint32_t sequences() const { return options_.sequences; }
  // Whose positions prefill(), decode(), set_token() and run_all_layers() speak of.
  void use_sequence(uint32_t sequence) { sequence_ = sequence; }
  // Positions below this one stay readable by sliding layers while at most this many newer ones are
  // written.
  uint32_t ring_slots() const { return ring_slots_; }
  // Positions that a sliding layer sees; 0 when no layer slides.
  uint32_t window() const;
  uint64_t kv_bytes() const { return kv_bytes_; }
  uint64_t scratch_bytes() const { return scratch_bytes_; }
  const Weights& weights() const { return weights_; }
  // The cuts in use that were found by timing.
  const Cuts& cuts() const { return tuner_.cuts(); }
  uint32_t candidates() const { return topk_; }
  uint32_t candidate_bytes() const { return static_cast<uint32_t>(kernels::topk_bytes(topk_)); }

  // Whether the per-layer embedding stays in its source. Then the tokens of every submission must
  // be provided before it.
  bool rows_in_source() const { return rows_ != nullptr; }
  // Fetches the rows of the tokens that the next submission runs: of prefill with the same `last`,
  // of run_all_layers with last = false, of decode with its one token and last = true. Nothing is
  // to do where the table is on the GPU. `tokens` must outlive the wait.
  Task<Status> provide(std::span<const uint32_t> tokens, bool last);

  // Whether a submission may follow another before that one's choice is known: neither rows nor
  // layers come from the source.
  bool runs_ahead() const {
    return rows_ == nullptr && weights_.stream == nullptr && weights_.experts == nullptr;
  }

  // What submits is a task, for streamed layers come from the source meanwhile, each behind what
  // runs before it. Nothing else may be submitted until it is done. An error of the source ends it
  // there: then nothing is read back, and what the KV cache holds of these positions counts for
  // nothing.
  //
  // Submits 1..max_batch tokens at `position`; readback applies to the last of them. `last`: no
  // more of the prompt follows. Without it the batch stops where K and V end, and readback must be
  // kNothing.
  // The last token of all is no soft one.
  Task<Status> prefill(std::span<const uint32_t> tokens, uint32_t position, bool last,
                       Readback readback, std::span<const SoftRows> soft = {});
  // Submits the K and V of prompts of different sequences, 1..max_batch tokens in all.
  Task<Status> prefill(std::span<const Prompt> prompts);
  // Submits the token in the token buffer at the position in the step buffer, which the host knows
  // to be `position`.
  Task<Status> decode(uint32_t position, Readback readback);
  // Overrides what decode() will run next; needed after a submission that chose no token.
  void set_token(uint32_t token, uint32_t position);
  // Penalties and biases for the submissions that follow; errors of check_adjustments.
  Status set_adjustments(std::span<const kernels::AdjustEntry> entries,
                         const kernels::AdjustParams& params);

  // How kSample draws, and the bits that it draws with at [position, position + draws.size()): a
  // ring of kernels::kDrawSlots positions, of which a write may not cross the end.
  void set_sampling(const kernels::SampleParams& params);
  void set_draws(uint32_t position, std::span<const kernels::Draw> draws);

  // All logits of the last submission that reached the head, after adjustments: f32 [vocab].
  Task<Status> read_last_logits(std::span<float> out) {
    co_return co_await device_.read(logits_, 0, std::as_writable_bytes(out));
  }

  // From the next submission on, these adapters change the model, and no others. None may be under
  // way. What the KV cache holds stays: it is what other adapters made. On an error (as
  // AdapterStack::create, or of the kernels) everything is as it was.
  Task<Status> set_adapters(std::span<const ActiveAdapter> active);
  // GPU memory of the stack of them.
  uint64_t adapter_bytes() const { return stack_.bytes() + fusion_.bytes(); }

  // For steps. Kernels compile on the first use, and once more after set_adapters.
  Task<Status> prepare_steps();
  // The most rows of a step.
  uint32_t step_rows() const { return std::min(options_.sequences, kernels::kMaxStepRows); }
  // Bytes that a step reads back of each row: what Choose::kSampleTopk does, at the start.
  uint32_t step_stride() const;
  // provide() for the next step's tokens, in the order of its rows.
  Task<Status> provide_step(std::span<const uint32_t> tokens);
  // After prepare_steps: submits 1..step_rows() tokens of different sequences through every layer
  // and the head. Each row's next token is drawn. fed: the rows are those of the step before, with
  // their adjustments; each runs the token that was drawn for it (0 for kNoToken), not StepRow's.
  // `out`: [rows] of step_stride() bytes; it must stay valid until `ticket` is resumed. What
  // decode() runs next is not changed.
  Task<Status> step(std::span<const StepRow> rows, bool fed, void* out, uint32_t ticket);
  // For verify, as prepare_steps() for steps.
  Task<Status> prepare_verify();
  // The same of 1..kMaxVerified tokens that follow each other in one sequence, each computed as
  // decode() does it, bit for bit, where no adapter is set. The first row's token is StepRow's; the
  // others are the first of `drafted`, u32, and are on the GPU when commands recorded before have
  // run. `out`: [rows] of step_stride() bytes, then u32 [rows]: the tokens that ran.
  Task<Status> verify(std::span<const StepRow> rows, const gpu::Buffer& drafted, void* out,
                      uint32_t ticket);
  uint32_t verify_bytes(size_t rows) const {
    return static_cast<uint32_t>(rows * (step_stride() + sizeof(uint32_t)));
  }
  // All logits of a row of the last step, or verify, after adjustments: f32 [vocab].
  Task<Status> read_row_logits(bool verified, uint32_t row, std::span<float> out) const;
  // kInvalidArgument for more entries than there is room for.
  Status check_adjustments(size_t entries) const;

  // Every layer with K and V of its own, in order.
  std::vector<KvRows> kv_rows() const;
  kernels::KvType kv_type() const { return options_.kv_type; }
  // Rows of K (values: of V) of positions from `position` on, as the cache keeps them: whole rows,
  // at most `slots` of them. `out` must outlive the wait.
  Task<Status> read_kv(KvRows rows, bool values, uint32_t sequence, uint32_t position,
                       std::span<std::byte> out) const;
  void write_kv(const KvRows& rows, bool values, uint32_t sequence, uint32_t position,
                std::span<const std::byte> in);

  // For what every position has after all layers: hidden states, or logits as well. Kernels compile
  // on the first use.
  Task<Status> prepare_hidden();
  Task<Status> prepare_all_positions();
  // After one of them: prompts of different sequences, 1..max_batch tokens in all, through every
  // layer and the last norm.
  Task<Status> run_all_layers(std::span<const Prompt> prompts);
  // Rows of that batch after the last norm, which are what the head multiplies: f32 [rows, hidden].
  // `out` must outlive the wait.
  Task<Status> read_hidden(uint32_t first_row, std::span<float> out) const;
  uint32_t hidden() const { return config_.hidden; }
  // After prepare_all_positions: logits for rows of that batch, f32 [rows, vocab].
  Task<Status> read_logits(uint32_t first_row, std::span<float> out);
  // The most rows that one read_logits may ask for; first_row is a multiple of it.
  uint32_t logits_rows() const { return logits_rows_; }

 private:
  friend struct DecoderProbe;  // tests/kernels/decoder_probe.cpp: what lies between dispatches
  friend class Drafter;        // drafter.h: it reads the cache, and its guesses run here

  struct Scratch {
    gpu::Buffer tokens, spans, last_seen, step, x[2], h, delta, qkv, attention, stats, ffn, ple_tok,
        ple_ctx, ple, ple_gate;
    gpu::Buffer quantized;  // input of a matmul, where the variant has a form that needs it
    // Of experts: logits, who was chosen (kernels/experts.h), and a row for each of a token's.
    gpu::Buffer router, chosen, expert_ffn, expert_out;
    gpu::Buffer tiles, order;  // of a batch's
  };

  // Floats of a token of decoding in the buffers between kernels, with the adapters that are set.
  // low, raw: as one_low_ and one_raw_.
  struct Widths {
    uint64_t delta = 0, qkv = 0, attention = 0, stats = 0, ffn = 0, low = 0, raw = 0;
  };

  // What decoding is recorded with: buffers and programs of one token, or of one of each of several
  // sequences. Then each has a row of every buffer, `strides` floats from the next.
  struct Lane {
    const Scratch& s;
    const gpu::Buffer& place;  // the step, or one of each
    const gpu::Buffer& logits;
    const gpu::Buffer& low;
    const gpu::Buffer& raw;
    Program& inputs;
    std::vector<Program>& layers;
    Program& head;
    bool one_sequence = false;               // which several tokens are of
    const uint32_t* last = nullptr;          // of several: the largest position
    std::map<uint32_t, uint32_t> strides{};  // by the buffer's id; none: of one token

    bool several() const { return !strides.empty(); }
    uint32_t stride(const gpu::Range& range) const {
      const auto found = strides.find(range.buffer);
      return found == strides.end() ? 0 : found->second;
    }
    void set_stride(const gpu::Buffer& buffer, uint64_t floats) {
      if (several()) strides[buffer.id()] = static_cast<uint32_t>(floats);
    }
  };

  // Of steps. What a row has of its own lies in blocks of 256 bytes, where bindings may begin.
  struct Steps {
    uint32_t rows = 0;  // at most
    bool one_sequence =
        false;  // the rows are tokens that follow each other; else of different ones
    Scratch s;
    gpu::Buffer places;                       // Step [kMaxStepRows]
    gpu::Buffer low, raw;                     // as one_low_, one_raw_
    gpu::Buffer logits, partial, candidates;  // a row each; `partial` is the rows' in turn
    gpu::Buffer adjust_entries, params, draws_at, choices;
    uint64_t bytes = 0;  // of all these
    Program inputs, head;
    std::vector<Program> layers;
    std::vector<Program> adjust, sample;  // by row
    uint32_t last = 0;                    // position of the step at hand
    bool ready = false;
  };

  Decoder(gpu::Device& device, kernels::KernelCache& cache, const Config& config, Weights weights,
          const DecoderOptions& options);
  Status allocate();
  Status allocate_for_adapters();
  void record();
  Task<Status> compile_and_bind(std::function<void(uint32_t, uint32_t)> progress);
  Task<Status> record_anew();
  Task<Status> tune(double budget_ms);
  Widths widths() const;
  Status allocate_rows(Scratch& scratch, uint32_t tokens);
  Status allocate_lane(Scratch& scratch, uint32_t tokens);
  Status allocate_batch(Scratch& scratch, uint32_t tokens);
  Result<gpu::Buffer> buffer(uint64_t bytes, uint32_t usage, std::string_view label);
  kernels::AttentionSpec attention_spec(size_t layer) const;
  uint32_t attention_splits() const;
  gpu::Range vectors(const Site& site) const { return {weights_.vectors, site.offset, site.bytes}; }
  const gpu::Buffer& k_cache(size_t layer) const {
    return k_cache_[config_.layers[layer].kv_source];
  }
  const gpu::Buffer& v_cache(size_t layer) const {
    return v_cache_[config_.layers[layer].kv_source];
  }

  using Change = AdapterStack::Change;
  Changes changes(size_t layer, Product product, const gpu::Buffer* residual = nullptr,
                  uint32_t pieces = 0) const;
  // The pieces that it hands over, if it does. adds: B follows at once. group: whose product it is,
  // where that may lie in several buffers.
  uint32_t record_matvec(Lane& lane, Program& program, kernels::MatvecSpec spec,
                         std::vector<gpu::Range> ranges, const Changes& changes = {},
                         bool adds = true, const MatrixGroup* group = nullptr);
  uint32_t record_group(Lane& lane, Program& program, const MatrixGroup& group,
                        kernels::MatvecSpec spec, std::vector<gpu::Range> ranges,
                        const Changes& changes = {}) {
    return record_matvec(lane, program, std::move(spec), std::move(ranges), changes, true, &group);
  }
  static kernels::TokenStrides token_strides(const Lane& lane, const kernels::MatvecSpec& spec,
                                             const std::vector<gpu::Range>& ranges);
  void add_matvec(const Lane& lane, Program& program, kernels::MatvecSpec spec,
                  std::vector<gpu::Range> ranges);
  void record_matmul(Program& program, kernels::MatmulSpec spec, std::vector<gpu::Range> ranges,
                     const Change* change = nullptr, bool adds = true,
                     const MatrixGroup* group = nullptr);
  void record_batch_group(Program& program, const MatrixGroup& group, kernels::MatmulSpec spec,
                          std::vector<gpu::Range> ranges, const Change* change = nullptr) {
    record_matmul(program, std::move(spec), std::move(ranges), change, true, &group);
  }
  void record_add(Program& program, kernels::LowRankAddSpec spec, const Change& change,
                  std::vector<gpu::Range> ranges, bool batch = false);
  const gpu::Buffer& record_residual_norm(Program& program, const Site& site, bool has_delta,
                                          uint32_t& current);
  void record_head(Program& program, const gpu::Range& h, const gpu::Buffer& logits,
                   const gpu::Buffer& step, uint32_t stride);
  void record_all_head(uint32_t rows);
  Lane one_lane();
  Lane step_lane(Steps& steps);
  void record_decode(Lane& lane);
  void record_entry();
  void record_decode_layer(size_t layer, Lane& lane, uint32_t& current);
  Status allocate_experts(Scratch& scratch, uint32_t tokens);
  Status allocate_expert_tiles(Scratch& scratch, uint32_t tokens);
  kernels::SortExpertsSpec sort_spec() const;
  kernels::Dot expert_form() const;
  bool sorts_experts(uint32_t tokens) const;
  void add_expert_matmuls(Program& program, const ExpertMatrices& matrices,
                          kernels::MatmulSpec spec, const gpu::Range& y, const gpu::Range& x);
  void record_expert_matmuls(Program& program, size_t layer, const gpu::Range& input);
  void record_choice(Program& program, size_t layer, const Scratch& s);
  void record_mix(Program& program, size_t layer, const Scratch& s, uint32_t delta_stride);
  enum class ExpertRun : uint8_t {
    kOne,
    kStep,
    kBatch
  };  // one token, one of each of several, many
  void add_expert_matvecs(Program& program, const ExpertMatrices& matrices,
                          kernels::MatvecSpec spec, const std::vector<gpu::Range>& ranges,
                          const gpu::Buffer& chosen, ExpertRun run);
  void record_expert_matvecs(Program& program, size_t layer, const Scratch& s,
                             const gpu::Range& input, uint32_t input_stride, bool norm,
                             ExpertRun run);
  void record_experts(size_t layer, Lane& lane, uint32_t current);
  void record_batch_experts(size_t layer, Program& program, uint32_t current);
  void record_sampling();
  void record_batch_inputs(Program& program);
  uint32_t max_adjustments() const { return std::min(config_.vocab, options_.context + 4096); }
  // Bytes from row to row of a step.
  uint64_t step_logits_stride() const;
  uint64_t step_entries_stride() const;
  Status allocate_steps(Steps& steps);
  void record_steps(Steps& steps);
  void record_step_row(Steps& steps, uint32_t row);
  Task<Status> prepare(Steps& steps);
  void write_rows(Steps& steps, std::span<const StepRow> rows, bool adjust);
  Task<Status> run_rows(Steps& steps, std::span<const StepRow> rows);
  void record_batch_layer(size_t layer, Program& program, uint32_t& current);
  void record_gather(Program& program, const Table& table, const gpu::Buffer& tokens,
                     const gpu::Buffer& out, float scale, const gpu::Buffer& step, bool one);
  void append_tail(gpu::CommandList& list, const Readback& readback, uint32_t position);
  void write_step(const gpu::Buffer& step, const kernels::Step& value);
  void write_spans(std::span<const kernels::TokenSpan> spans);
  void write_last_seen(std::span<const Prompt> prompts);
  uint32_t write_batch(std::span<const Prompt> prompts);
  // Records layers [first, end) within a pass, and brings those that are streamed, and experts that
  // have no slot. n: as Program::record; tokens: that s has.
  Task<Status> record_layers(const std::vector<Program>& layers, size_t first, size_t end,
                             uint32_t n, const Scratch& s, uint32_t tokens);
  Task<Status> record_with_experts(const Program& program, size_t layer, uint32_t n,
                                   const gpu::Buffer& chosen, uint32_t tokens);
  // Experts that a layer's kernels know: all, or its slots and one that stands for the others.
  uint32_t known_experts() const;
  Task<Status> record_batch(std::span<const Prompt> prompts);
  void submit_inputs(std::span<const Prompt> prompts, uint32_t count);

  gpu::Device& device_;
  kernels::KernelCache& cache_;
  Config config_;
  Weights weights_;
  DecoderOptions options_;
  std::unique_ptr<RowSource> rows_;  // where the per-layer embedding stays in its source
  Tuner tuner_;
  uint32_t ring_slots_ = 0;
  uint32_t sequence_ = 0;
  uint32_t spans_ = 1;  // of the batch at hand
  uint32_t topk_ = 0;
  uint64_t kv_bytes_ = 0;
  uint64_t scratch_bytes_ = 0;
  uint64_t batch_bytes_ = 0;  // of batch_
  size_t batch_layers_ = 0;   // layers that the batch program runs: those with K/V of their own

  std::vector<gpu::Buffer> k_cache_, v_cache_;  // by layer; empty where a layer shares
  Scratch one_, batch_;
  gpu::Buffer logits_, argmax_partial_, results_, topk_partial_, candidates_, adjust_entries_,
      adjust_params_, sample_params_, draws_;
  gpu::Buffer all_logits_, all_step_;
  AdapterStack stack_;
  AdapterFusion fusion_;
  Program entry_;  // V and U where a token enters from a batch
  // What the matrices gave before adapters add to it, where that is no output: gate and up. And A
  // h; in one_low_ also V and U on their way to where a fused change has them (record_entry).
  gpu::Buffer one_raw_, one_low_, batch_raw_, batch_low_;
  uint32_t logits_rows_ = 0;

  Program decode_inputs_, decode_head_, argmax_, sample_, adjust_;
  std::vector<Program> decode_layers_;
  std::vector<uint32_t>
      decode_entry_;         // by layer: which of one_.x holds the residual stream before it
  uint32_t head_entry_ = 0;  // the same before the head
  Program batch_inputs_;
  std::vector<Program> batch_layers_programs_;
  std::vector<uint32_t> batch_exit_;  // by layer: which of batch_.x holds the stream after it
  Program all_norm_;
  const gpu::Buffer* hidden_ = nullptr;  // where all_norm_ leaves them; none: not recorded yet
  std::vector<Program> all_head_;        // by block of logits_rows_ rows
  Steps steps_, verify_;
  gpu::CommandList list_;
};

}  // namespace lapidary::model
