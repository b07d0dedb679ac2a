// The trainer beside the training oracle (engine/reference/training.h): losses and gradients of
// adapters on whole models, and steps from an adapter that a test brings, for
// tests/model/training.test.ts.
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/adapter/peft.h"
#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/generate/text_model.h"
#include "engine/gguf/header_parser.h"
#include "engine/kernels/trial.h"
#include "engine/model/tensor_table.h"
#include "engine/model/weights.h"
#include "engine/reference/training.h"
#include "engine/training/trainer.h"
#include "tests/kernels/probe.h"

namespace lapidary {
namespace {

using reference::TrainingSequence;

// A module for every matrix that can have one, of the given rank and every third of another.
adapter::LoraAdapter every_module(const model::Config& config, uint32_t rank, bool head,
                                  kernels::TrialRandom& random) {
  adapter::LoraAdapter out{.rank = rank, .alpha = 2.0f * static_cast<float>(rank)};
  for (uint32_t layer = 0; layer < config.layers.size(); ++layer) {
    for (const model::TensorRole role : adapter::kRoles) {
      const bool is_head = role == model::TensorRole::kOutput;
      if (is_head && (!head || layer + 1 < config.layers.size())) continue;
      const int index = is_head ? 0 : static_cast<int>(layer);
      if (!is_head && model::tensor_need(config, role, index) == model::TensorNeed::kNone) continue;
      const model::TensorShape shape = model::expected_shape(config, role, index);
      const uint32_t r = out.modules.size() % 3 == 2 ? rank + 1 : rank;
      const auto inputs = static_cast<uint32_t>(shape.dims[0]);
      const auto outputs = static_cast<uint32_t>(shape.dims[1]);
      out.modules.push_back({.layer = static_cast<uint32_t>(index),
                             .role = role,
                             .rank = r,
                             .alpha = out.alpha,
                             .inputs = inputs,
                             .outputs = outputs,
                             .a = random.floats(size_t{r} * inputs, 0.2f),
                             .b = random.floats(size_t{r} * outputs, 0.2f)});
    }
  }
  return out;
}

// Sequences longer than a tiny model's window, with masked targets of both kinds.
std::vector<TrainingSequence> sequences_of(const model::Config& config, const Json& lengths,
                                           kernels::TrialRandom& random) {
  std::vector<TrainingSequence> out;
  for (const Json& length : lengths) {
    TrainingSequence& sequence = out.emplace_back();
    for (uint32_t t = 0; t < length.get<uint32_t>(); ++t) {
      sequence.tokens.push_back(random.bits() % config.vocab);
      const bool masked = t < 3 || t == 6;
      sequence.targets.push_back(masked ? (t == 1 ? config.vocab : reference::kUnsupervised)
                                        : random.bits() % config.vocab);
    }
  }
  return out;
}

// A model on the GPU.
struct Loaded {
  gpu::Device device;
  kernels::KernelCache cache{device};
  model::Config config;
  model::Weights weights;

  static Task<Result<std::unique_ptr<Loaded>>> load(uint32_t source) {
    auto self = std::make_unique<Loaded>();
    CO_TRY(const gguf::Header header, co_await generate::read_header(source, nullptr));
    CO_TRY(self->config, model::Config::from_gguf(header));
    CO_TRY(self->weights,
           co_await model::load_weights(
               self->device, self->cache, header, self->config, source, model::WeightPlaces{},
               self->config.context_length, [](uint64_t, uint64_t) {}, [] { return false; }));
    co_return self;
  }
  training::TrainerOptions options() const {
    return {.max_tokens = 64,
            .variant = {.subgroups = device.has(gpu::kFeatureSubgroups),
                        .light = device.info().is_software != 0}};
  }
};

struct Probe {
  uint32_t call;
  void emit(const Json& event) const {
    const std::string text = dump_json(event);
    gpu::host_emit(call, text.data(), static_cast<uint32_t>(text.size()));
  }

  // The oracle's loss and gradients, in the order of the modules: A, then B.
  static Result<std::pair<double, std::vector<float>>> oracle(
      Bytes file, const adapter::LoraAdapter& adapter,
      std::span<const TrainingSequence> sequences) {
    TRY(const gguf::Header header, gguf::parse_header(file));
    TRY(const reference::ReferenceModel model, reference::ReferenceModel::load(header, file));
    std::vector<reference::LoraModule> modules;
    for (const adapter::LoraModule& m : adapter.modules) {
      modules.push_back({.role = m.role,
                         .layer = m.layer,
                         .rank = m.rank,
                         .scale = adapter::scale(adapter, m),
                         .a = {m.a.begin(), m.a.end()},
                         .b = {m.b.begin(), m.b.end()}});
    }
    TRY(const reference::TrainingResult result,
        reference::training_gradients(model, modules, sequences));
    std::vector<float> flat;
    for (const reference::LoraGradient& g : result.gradients) {
      flat.insert(flat.end(), g.a.begin(), g.a.end());
      flat.insert(flat.end(), g.b.begin(), g.b.end());
    }
    return std::pair{result.loss, std::move(flat)};
  }

  // request: {rank, head, seed, lengths: [tokens of each example], batches: how many micro-batches
  // they are spread over, oracle: whether to ask it, and TrainerOptions}.
  Task<Result<std::vector<float>>> run(uint32_t source, std::string file, Json request) {
    CO_TRY(const std::unique_ptr<Loaded> base, co_await Loaded::load(source));
    const model::Config& config = base->config;
    kernels::TrialRandom random(request["seed"].get<uint32_t>());
    const adapter::LoraAdapter adapter =
        every_module(config, request["rank"].get<uint32_t>(), request["head"].get<bool>(), random);
    CO_TRY_VOID(adapter::check(adapter, config));
    const std::vector<TrainingSequence> sequences =
        sequences_of(config, request["lengths"], random);
    size_t supervised = 0;
    for (const TrainingSequence& s : sequences)
      for (const uint32_t target : s.targets) supervised += target < config.vocab;

    training::TrainerOptions options = base->options();
    options.head_rows = request["headRows"].get<uint32_t>();
    options.head_chunk = request["headChunk"].get<uint32_t>();
    options.checkpointing = request["checkpointing"].get<bool>();
    CO_TRY(const std::unique_ptr<training::Trainer> trainer,
           co_await training::Trainer::create(base->device, base->cache, config, base->weights,
                                              adapter, options));
    const auto batches = request["batches"].get<size_t>();
    for (size_t first = 0; first < sequences.size();) {
      const size_t end =
          std::min(sequences.size(), first + (sequences.size() + batches - 1) / batches);
      std::vector<uint32_t> tokens, targets, lengths;
      for (; first < end; ++first) {
        const TrainingSequence& s = sequences[first];
        tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
        targets.insert(targets.end(), s.targets.begin(), s.targets.end());
        lengths.push_back(static_cast<uint32_t>(s.tokens.size()));
      }
      CO_TRY_VOID(co_await trainer->accumulate({tokens, targets, lengths},
                                               1 / static_cast<float>(supervised), true));
    }
    CO_TRY(
        const std::vector<float> stored,
        co_await trainer->parameters().read(base->device, training::Parameters::Part::kGradients));
    adapter::LoraAdapter gradients = adapter;
    trainer->parameters().store(stored, gradients);
    CO_TRY(const double loss, co_await trainer->take_loss());
    Json names = Json::array();
    std::vector<float> flat;
    for (const adapter::LoraModule& m : gradients.modules) {
      for (const auto* values : {&m.a, &m.b}) {
        flat.insert(flat.end(), values->begin(), values->end());
        names.push_back({{"name", cat(adapter::module_name(m), values == &m.a ? " A" : " B")},
                         {"count", values->size()}});
      }
    }
    emit({{"loss", loss}, {"matrices", names}, {"bytes", trainer->bytes()}});
    if (!request["oracle"].get<bool>()) co_return flat;
    const std::span<const char> chars(file);
    CO_TRY(auto expected, oracle(std::as_bytes(chars), adapter, sequences));
    emit({{"expected", expected.first}});
    flat.insert(flat.end(), expected.second.begin(), expected.second.end());
    co_return flat;
  }

  // request: {tokens, targets, steps, rate, beta1, beta2, epsilon, clip}. The example is learnt so
  // often, without decay, from the adapter of PEFT's files `model` and `config` on. Emits {loss,
  // norm} of each step, and {loss} after the last; the result is PEFT's file then.
  Task<Result<std::vector<std::byte>>> steps(uint32_t source, std::string model, std::string config,
                                             Json request) {
    CO_TRY(const std::unique_ptr<Loaded> base, co_await Loaded::load(source));
    const std::span<const char> chars(model);
    CO_TRY(adapter::LoraAdapter adapter, adapter::read_peft(std::as_bytes(chars), config));
    CO_TRY_VOID(adapter::check(adapter, base->config));
    CO_TRY(const std::unique_ptr<training::Trainer> trainer,
           co_await training::Trainer::create(base->device, base->cache, base->config,
                                              base->weights, adapter, base->options()));
    const auto tokens = request["tokens"].get<std::vector<uint32_t>>();
    const auto targets = request["targets"].get<std::vector<uint32_t>>();
    const std::vector<uint32_t> lengths = {static_cast<uint32_t>(tokens.size())};
    float supervised = 0;
    for (const uint32_t target : targets) supervised += target < base->config.vocab ? 1 : 0;
    kernels::AdamParams adam{.rate = request["rate"].get<float>(),
                             .beta1 = request["beta1"].get<float>(),
                             .beta2 = request["beta2"].get<float>(),
                             .epsilon = request["epsilon"].get<float>(),
                             .clip = request["clip"].get<float>()};
    const auto steps = request["steps"].get<int>();
    for (int n = 1; n <= steps; ++n) {
      CO_TRY_VOID(co_await trainer->accumulate({tokens, targets, lengths}, 1 / supervised, true));
      adam.correction1 = static_cast<float>(1 - std::pow(double{adam.beta1}, n));
      adam.correction2 = static_cast<float>(1 - std::pow(double{adam.beta2}, n));
      CO_TRY(const training::StepReport report, co_await trainer->step(adam));
      emit({{"loss", report.loss}, {"norm", report.gradient_norm}});
    }
    CO_TRY_VOID(co_await trainer->accumulate({tokens, targets, lengths}, 1 / supervised, false));
    CO_TRY(const double loss, co_await trainer->take_loss());
    emit({{"loss", loss}});
    CO_TRY(const std::vector<float> values,
           co_await trainer->parameters().read(base->device, training::Parameters::Part::kValues));
    trainer->parameters().store(values, adapter);
    CO_TRY(adapter::PeftFiles files, adapter::write_peft(adapter));
    co_return std::move(files.model);
  }

  // Runs `work`, which makes a call's result of its request.
  template <typename Work>
  static Task<void> answer(Probe probe, std::string request, Work work) {
    auto json = parse_json(request, "request");
    if (json)
      complete_call(probe.call, co_await work(probe, std::move(*json)));
    else
      complete_call(probe.call, Result<std::vector<float>>(std::unexpected(json.error())));
  }
};

}  // namespace
}  // namespace lapidary

// Emits the loss, the oracle's, and the names of matrices; the result is f32: all gradients, then
// the oracle's.
extern "C" __attribute__((export_name("training_probe"))) void training_probe(
    uint32_t call, uint32_t source, const char* file, uint32_t file_bytes, const char* request,
    uint32_t length) {
  using lapidary::Probe;
  lapidary::spawn(Probe::answer(
      {call}, {request, length},
      [source, bytes = std::string(file, file_bytes)](Probe& probe, lapidary::Json json) {
        return probe.run(source, bytes, std::move(json));
      }));
}

// Probe::steps.
extern "C" __attribute__((export_name("training_steps_probe"))) void training_steps_probe(
    uint32_t call, uint32_t source, const char* model, uint32_t model_bytes, const char* config,
    uint32_t config_bytes, const char* request, uint32_t length) {
  using lapidary::Probe;
  lapidary::spawn(
      Probe::answer({call}, {request, length},
                    [source, file = std::string(model, model_bytes),
                     text = std::string(config, config_bytes)](Probe& probe, lapidary::Json json) {
                      return probe.steps(source, file, text, std::move(json));
                    }));
}
