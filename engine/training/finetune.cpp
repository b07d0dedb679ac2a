#include "engine/training/finetune.h"

#include <algorithm>
#include <cmath>

#include "engine/adapter/safetensors.h"
#include "engine/base/text.h"

namespace lapidary::training {
namespace {

using dataset::Batch;

constexpr uint32_t kCheckpointVersion = 1;
constexpr std::string_view kCheckpointKey = "lapidary_finetune";
// How much of the time per step its last measurement counts.
constexpr double kSmoothing = 0.2;

// A batch without its padding.
struct Packed {
  std::vector<uint32_t> tokens, targets, lengths;
  MicroBatch view() const { return {tokens, targets, lengths}; }
};
Packed packed(const Batch& batch) {
  Packed out;
  uint32_t last = dataset::kNoSequence;
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    const uint32_t id = batch.sequence_ids[i];
    if (id == dataset::kNoSequence) continue;
    if (id != last) out.lengths.push_back(0);
    last = id;
    ++out.lengths.back();
    out.tokens.push_back(batch.tokens[i]);
    out.targets.push_back(batch.targets[i]);
  }
  return out;
}

}  // namespace

Finetune::Finetune(Base base, FinetuneOptions options)
    : base_(std::move(base)),
      options_(std::move(options)),
      cache_(*base_.device),
      reader_(*base_.tokenizer, options_.data) {}

Result<std::unique_ptr<Finetune>> Finetune::open(Base base, const Json& json) {
  TRY(FinetuneOptions options, FinetuneOptions::parse(json));
  if (base.config->experts.count > 0)
    return fail(ErrorCode::kUnsupported, "models with experts cannot be fine-tuned");
  if (base.weights->stream != nullptr) {
    return fail(
        ErrorCode::kUnsupported,
        "a model whose layers are streamed from its file cannot be fine-tuned: it needs all "
        "of them on the GPU (load it with more gpuMemory, or without)");
  }
  if (base.weights->splits_groups()) {
    return fail(ErrorCode::kUnsupported,
                "this GPU binds buffers that are too small for this model's matrices; fine-tuning "
                "needs each of them in one");
  }
  if (options.data.max_length > base.context) {
    return fail(ErrorCode::kInvalidArgument,
                cat("examples of up to ", options.data.max_length,
                    " tokens do not fit the model's context of ", base.context));
  }
  options.data.encode.large_template = base.large_template;
  std::unique_ptr<Finetune> self(new Finetune(std::move(base), std::move(options)));
  TRY(self->adapter_, initial_adapter(*self->base_.config, self->options_));
  self->adapter_.base_model = self->base_.name;
  self->adapter_.base_digest = self->base_.digest;
  return self;
}

// The batches from `state` on.
Status Finetune::seek(const dataset::PlanState& state) {
  const dataset::BatchOptions batching{
      .rows = options_.rows, .row_length = options_.data.max_length, .pack = options_.pack};
  TRY(plan_, dataset::BatchPlan::create(*dataset_, train_, batching, state));
  return {};
}

// What a checkpoint must have been made under.
Json Finetune::run_key() const {
  Json targets = Json::array();
  for (const adapter::LoraModule& m : adapter_.modules) targets.push_back(adapter::module_name(m));
  return {{"digest", base_.digest},
          {"modules", targets},
          {"rank", options_.rank},
          {"alpha", options_.alpha},
          {"rsLora", options_.rs_lora},
          {"dropout", options_.dropout},
          {"learningRate", options_.learning_rate},
          {"beta1", options_.beta1},
          {"beta2", options_.beta2},
          {"epsilon", options_.epsilon},
          {"weightDecay", options_.weight_decay},
          {"clip", options_.clip},
          {"schedule", static_cast<int>(options_.schedule)},
          {"warmup", options_.warmup},
          {"restarts", options_.restarts},
          {"steps", steps_},
          {"batch", options_.rows},
          {"accumulation", options_.accumulation},
          {"pack", options_.pack},
          {"seed", options_.seed},
          {"maxLength", options_.data.max_length},
          {"evalEvery", options_.eval_every},
          {"evalExamples", eval_.size()},
          {"examples", dataset_->size()},
          {"positions", dataset_->positions()},
          {"supervised", dataset_->supervised()}};
}

Task<Result<Json>> Finetune::prepare(Bytes checkpoint) {
  if (trainer_) co_return fail(ErrorCode::kInvalidArgument, "the fine-tuning run is ready already");
  CO_TRY(dataset_, std::move(reader_).finish());
  CO_TRY(dataset::Split split, dataset::split(*dataset_, options_.eval, options_.seed));
  train_ = std::move(split.train);
  eval_ = std::move(split.eval);
  CO_TRY_VOID(seek({.seed = options_.seed}));
  steps_an_epoch_ = (plan_->batches() + options_.accumulation - 1) / options_.accumulation;
  const double by_epochs = std::ceil(double{options_.epochs} * steps_an_epoch_);
  steps_ = options_.steps != 0 ? options_.steps
                               : static_cast<uint32_t>(std::clamp(by_epochs, 1.0, double{1 << 24}));
  CO_TRY(trainer_, co_await make_trainer());
  if (!checkpoint.empty()) CO_TRY_VOID(restore(checkpoint));

  const dataset::Report& report = reader_.report();
  Json shapes = Json::object();
  for (size_t i = 0; i < dataset::kShapes; ++i) {
    if (report.shapes[i] > 0)
      shapes[std::string(dataset::shape_name(static_cast<dataset::Shape>(i)))] = report.shapes[i];
  }
  Json problems = Json::array();
  for (const dataset::Problem& p : report.problems)
    problems.push_back({{"line", p.line}, {"message", p.message}});
  co_return Json{{"examples", train_.size()},
                 {"evalExamples", eval_.size()},
                 {"positions", dataset_->positions()},
                 {"supervised", dataset_->supervised()},
                 {"shapes", shapes},
                 {"badLines", report.bad_lines},
                 {"problems", problems},
                 {"cut", report.cut},
                 {"split", report.split},
                 {"dropped", report.dropped},
                 {"step", step_},
                 {"steps", steps_},
                 {"parameters", trainer_->parameters().count()},
                 {"gpuBytes", trainer_->bytes()}};
}

uint32_t Finetune::epoch_of(uint32_t step) const { return step / steps_an_epoch_; }

bool Finetune::evaluates_after(uint32_t step) const {
  if (eval_.empty()) return false;
  const uint32_t every = options_.eval_every != 0 ? options_.eval_every : steps_an_epoch_;
  return step == steps_ || step % every == 0;
}

// The micro-batches of one step, then the optimiser. kCancelled between them: the step is as if it
// had not begun.
Task<Result<StepReport>> Finetune::one_step(const Cancelled& cancelled) {
  const dataset::PlanState before = plan_->state();
  std::vector<Packed> batches;
  uint64_t supervised = 0;
  tokens_ = 0;
  // A step does not reach into the next epoch.
  for (uint32_t i = 0; i < options_.accumulation; ++i) {
    const Batch batch = plan_->next();
    supervised += batch.supervised;
    batches.push_back(packed(batch));
    tokens_ += batches.back().tokens.size();
    if (plan_->state().epoch != before.epoch) break;
  }
  const float factor = 1 / static_cast<float>(std::max<uint64_t>(supervised, 1));
  for (size_t i = 0; i < batches.size(); ++i) {
    if (cancelled()) {
      trainer_->forget();
      CO_TRY_VOID(seek(before));
      co_return fail(ErrorCode::kCancelled, "fine-tuning was stopped");
    }
    const auto seed =
        static_cast<uint32_t>(options_.seed * 2654435761u + step_ * options_.accumulation + i);
    CO_TRY_VOID(co_await trainer_->accumulate(batches[i].view(), factor, true, seed));
  }
  const double rate = learning_rate(options_, step_, steps_);
  const double n = step_ + 1;
  co_return co_await trainer_->step(
      {.rate = static_cast<float>(rate),
       .beta1 = options_.beta1,
       .beta2 = options_.beta2,
       .epsilon = options_.epsilon,
       .decay = static_cast<float>(rate * double{options_.weight_decay}),
       .correction1 = static_cast<float>(1 - std::pow(double{options_.beta1}, n)),
       .correction2 = static_cast<float>(1 - std::pow(double{options_.beta2}, n)),
       .clip = options_.clip});
}

Task<Result<std::optional<double>>> Finetune::evaluate(const Cancelled& cancelled) {
  if (eval_.empty()) co_return std::optional<double>();
  const dataset::BatchOptions batching{
      .rows = options_.rows, .row_length = options_.data.max_length, .shuffle = false};
  CO_TRY(dataset::BatchPlan plan, dataset::BatchPlan::create(*dataset_, eval_, batching));
  uint64_t supervised = 0;
  for (const uint32_t i : eval_) supervised += dataset_->supervised(i);
  const float factor = 1 / static_cast<float>(std::max<uint64_t>(supervised, 1));
  for (uint32_t left = plan.batches(); left > 0; --left) {
    if (cancelled()) co_return std::optional<double>();
    const Packed batch = packed(plan.next());
    CO_TRY_VOID(co_await trainer_->accumulate(batch.view(), factor, false));
  }
  CO_TRY(const double loss, co_await trainer_->take_loss());
  co_return std::optional<double>(loss);
}

Task<Result<Json>> Finetune::run(uint32_t steps, Emit emit, Cancelled cancelled) {
  if (!trainer_) co_return fail(ErrorCode::kInvalidArgument, "prepare the fine-tuning run first");
  bool stopped = false;
  const uint32_t end = static_cast<uint32_t>(std::min<uint64_t>(steps_, uint64_t{step_} + steps));
  while (step_ < end && !stopped) {
    const double start = gpu::host_now();
    const Result<StepReport> report = co_await one_step(cancelled);
    if (!report) {
      if (report.error().code != ErrorCode::kCancelled) co_return std::unexpected(report.error());
      stopped = true;
      break;
    }
    if (!std::isfinite(report->loss) || !std::isfinite(report->gradient_norm)) {
      co_return fail(
          ErrorCode::kInvalidArgument,
          cat("the loss of step ", step_ + 1,
              " is no number: go on from the last checkpoint with a lower learningRate"));
    }
    const double seconds = (gpu::host_now() - start) / 1000;
    seconds_a_step_ =
        seconds_a_step_ == 0 ? seconds : seconds_a_step_ + kSmoothing * (seconds - seconds_a_step_);
    Json event{{"step", step_ + 1},
               {"steps", steps_},
               {"epoch", epoch_of(step_)},
               {"loss", report->loss},
               {"gradientNorm", report->gradient_norm},
               {"learningRate", learning_rate(options_, step_, steps_)},
               {"tokensPerSecond", seconds > 0 ? static_cast<double>(tokens_) / seconds : 0},
               {"secondsLeft", seconds_a_step_ * (steps_ - step_ - 1)},
               {"gpuBytes", trainer_->bytes()}};
    ++step_;
    if (evaluates_after(step_)) {
      CO_TRY(const std::optional<double> loss, co_await evaluate([] { return false; }));
      event["evalLoss"] = *loss;
      if (!best_loss_ || *loss < *best_loss_) {
        best_loss_ = loss;
        CO_TRY(best_values_,
               co_await trainer_->parameters().read(*base_.device, Parameters::Part::kValues));
      }
    }
    emit(event);
  }
  Json out{{"step", step_}, {"steps", steps_}, {"done", step_ == steps_}, {"cancelled", stopped}};
  if (best_loss_) out["bestEvalLoss"] = *best_loss_;
  co_return out;
}

Task<Result<adapter::LoraAdapter>> Finetune::adapter(bool best) {
  if (!trainer_) co_return fail(ErrorCode::kInvalidArgument, "prepare the fine-tuning run first");
  adapter::LoraAdapter out = adapter_;
  if (best && best_loss_) {
    trainer_->parameters().store(best_values_, out);
  } else {
    CO_TRY(const std::vector<float> values,
           co_await trainer_->parameters().read(*base_.device, Parameters::Part::kValues));
    trainer_->parameters().store(values, out);
  }
  co_return out;
}

Task<Result<std::vector<std::byte>>> Finetune::checkpoint() {
  if (!trainer_) co_return fail(ErrorCode::kInvalidArgument, "prepare the fine-tuning run first");
  const Parameters& parameters = trainer_->parameters();
  CO_TRY(const std::vector<float> values,
         co_await parameters.read(*base_.device, Parameters::Part::kValues));
  CO_TRY(const std::vector<float> moments,
         co_await parameters.read(*base_.device, Parameters::Part::kMoments));
  const dataset::PlanState& plan = plan_->state();
  Json state{{"version", kCheckpointVersion},
             {"run", run_key()},
             {"step", step_},
             {"epoch", plan.epoch},
             {"batch", plan.batch}};
  std::vector<adapter::SafetensorsOutput> tensors = {{"values", {values.size()}, values},
                                                     {"moments", {moments.size()}, moments}};
  if (best_loss_) {
    state["bestEvalLoss"] = *best_loss_;
    tensors.push_back({"best_values", {best_values_.size()}, best_values_});
  }
  const std::pair<std::string, std::string> metadata[] = {
      {std::string(kCheckpointKey), dump_json(state)}};
  co_return adapter::write_safetensors(tensors, metadata);
}

Status Finetune::restore(Bytes file) {
  const auto damaged = [](std::string_view what) {
    return fail(ErrorCode::kInvalidFormat, cat("the checkpoint is damaged: ", what));
  };
  TRY(const adapter::Safetensors parsed, adapter::parse_safetensors(file));
  const std::string* text = parsed.find_metadata(kCheckpointKey);
  if (text == nullptr) return damaged("it is of no fine-tuning run");
  TRY(const Json state, parse_json(*text, "checkpoint"));
  const auto whole = [&](std::string_view key, uint64_t most) -> Result<uint32_t> {
    const Json* value = json_member(state, key);
    if (value == nullptr || !value->is_number_unsigned() || value->get<uint64_t>() > most)
      return damaged(key);
    return value->get<uint32_t>();
  };
  TRY(const uint32_t version, whole("version", UINT32_MAX));
  if (version != kCheckpointVersion)
    return fail(ErrorCode::kUnsupported, cat("a checkpoint of version ", version));
  const Json* run = json_member(state, "run");
  if (run == nullptr || !run->is_object()) return damaged("run");
  // Through text, as the file has it: numbers compare by what was written.
  TRY(const Json own, parse_json(dump_json(run_key()), "run"));
  for (const auto& [key, value] : own.items()) {
    const Json* other = json_member(*run, key);
    if (other == nullptr || *other != value) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("the checkpoint is of another run: ", key, " was ",
                      other == nullptr ? "missing" : dump_json(*other).substr(0, 100), ", now ",
                      dump_json(value).substr(0, 100)));
    }
  }
  TRY(step_, whole("step", steps_));
  dataset::PlanState at{.seed = options_.seed};
  TRY(at.epoch, whole("epoch", UINT32_MAX));
  TRY(at.batch, whole("batch", UINT32_MAX));
  TRY_VOID(seek(at));
  const auto values_of = [&](std::string_view name) -> Result<std::vector<float>> {
    for (const adapter::SafetensorsEntry& entry : parsed.tensors)
      if (entry.name == name) return adapter::to_floats(entry);
    return damaged(cat(name, " is missing"));
  };
  Parameters& parameters = trainer_->parameters();
  TRY(const std::vector<float> values, values_of("values"));
  TRY(const std::vector<float> moments, values_of("moments"));
  TRY_VOID(parameters.write(*base_.device, Parameters::Part::kValues, values));
  TRY_VOID(parameters.write(*base_.device, Parameters::Part::kMoments, moments));
  if (const Json* best = json_member(state, "bestEvalLoss"); best != nullptr) {
    if (!best->is_number()) return damaged("bestEvalLoss");
    TRY(best_values_, values_of("best_values"));
    if (best_values_.size() != values.size()) return damaged("best_values");
    best_loss_ = best->get<double>();
  }
  return {};
}

}  // namespace lapidary::training
