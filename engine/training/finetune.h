// A fine-tuning run: data in, steps, checkpoints and an adapter out. The host keeps the files; a
// run that is stopped, and opened again from its checkpoint, goes on bit for bit as if it had never
// been.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/dataset/batch_plan.h"
#include "engine/training/options.h"
#include "engine/training/trainer.h"

namespace lapidary::training {

// The model that is trained on; all of it must outlive the run.
struct Base {
  gpu::Device* device;
  const model::Config* config;
  const model::Weights* weights;
  const tokenizer::Tokenizer* tokenizer;
  std::string name, digest;  // digest: "sha256:…" of its file, or empty
  uint32_t context = 0;      // positions that its rotary tables reach
  bool large_template = false;
  kernels::Variant variant;
};

using Emit = std::function<void(const Json& event)>;
using Cancelled = std::function<bool()>;

class Finetune {
 public:
  // kInvalidArgument, kUnsupported: what FinetuneOptions::parse and Trainer refuse.
  static Result<std::unique_ptr<Finetune>> open(Base base, const Json& options);

  // What training takes, and what the GPU has room for; nothing is left allocated, and the run can
  // be prepared afterwards. Tried are micro-batches of up to kMostProbed tokens, or as many as the
  // options ask for. The answer: {maxLength, batch, bytes, fits, parameters, longest: {maxLength,
  // batch, bytes}, largest?: {maxLength, batch, bytes}}: as asked for, the longest single row, and
  // the most rows of the length asked for; bytes are estimated. kOutOfMemory: nothing fits.
  Task<Result<Json>> probe();
  static constexpr uint32_t kMostProbed = 1 << 15;

  // The dataset's bytes, plain JSON Lines, in pieces of any size.
  Status push(Bytes bytes) { return reader_.push(bytes); }

  // After the data: makes everything ready, from the start or from a checkpoint of this run.
  // The answer: {examples, evalExamples, positions, supervised, shapes, badLines, problems, cut,
  // split, dropped, steps, step, parameters, gpuBytes}. kOutOfMemory says which smaller batch would
  // fit; kInvalidFormat, kTruncated: a damaged checkpoint; kInvalidArgument: one of another run.
  Task<Result<Json>> prepare(Bytes checkpoint);

  // Trains until `steps` more are done, none are left or it is cancelled between micro-batches.
  // Emits {step, steps, epoch, loss, gradientNorm, learningRate, tokensPerSecond, secondsLeft,
  // evalLoss?} after each. The answer: {step, steps, done, cancelled, bestEvalLoss?}.
  // kInvalidArgument: the loss is no number any more.
  Task<Result<Json>> run(uint32_t steps, Emit emit, Cancelled cancelled);

  // Everything that a run goes on from: a safetensors file.
  Task<Result<std::vector<std::byte>>> checkpoint();
  // As trained so far; best: as it was at the lowest evaluation loss, if there was one.
  Task<Result<adapter::LoraAdapter>> adapter(bool best);
  // The mean loss of the examples kept aside; nothing without such.
  Task<Result<std::optional<double>>> evaluate(const Cancelled& cancelled);

 private:
  Finetune(Base base, FinetuneOptions options);
  TrainerOptions trainer_options(uint32_t tokens) const;
  uint32_t asked_tokens() const { return options_.rows * options_.data.max_length; }
  Result<uint64_t> estimate(uint32_t tokens);
  Task<Result<bool>> has_room(uint32_t tokens);
  Task<Result<uint32_t>> most_tokens(uint32_t fitting, uint32_t failing);
  Task<Result<std::unique_ptr<Trainer>>> make_trainer();
  Status restore(Bytes checkpoint);
  Task<Result<StepReport>> one_step(const Cancelled& cancelled);
  Status seek(const dataset::PlanState& state);
  Json run_key() const;
  uint32_t epoch_of(uint32_t step) const;
  bool evaluates_after(uint32_t step) const;

  Base base_;
  FinetuneOptions options_;
  kernels::KernelCache cache_;
  dataset::DatasetReader reader_;
  std::optional<dataset::Dataset> dataset_;
  std::optional<dataset::BatchPlan> plan_;
  std::vector<uint32_t> train_, eval_;
  adapter::LoraAdapter adapter_;  // its values are on the GPU, once there is a trainer
  std::unique_ptr<Trainer> trainer_;
  uint32_t step_ = 0, steps_ = 0;
  uint32_t steps_an_epoch_ = 1;
  uint64_t tokens_ = 0;        // of this step
  double seconds_a_step_ = 0;  // smoothed
  std::optional<double> best_loss_;
  std::vector<float> best_values_;
};

}  // namespace lapidary::training
