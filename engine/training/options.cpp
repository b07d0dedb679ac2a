#include "engine/training/options.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

#include "engine/base/random.h"
#include "engine/base/text.h"

namespace lapidary::training {
namespace {

using model::TensorRole;

struct TargetName {
  std::string_view name;
  TensorRole role;
};
constexpr TargetName kTargets[] = {
    {"q", TensorRole::kAttnQ},
    {"k", TensorRole::kAttnK},
    {"v", TensorRole::kAttnV},
    {"o", TensorRole::kAttnOutput},
    {"gate", TensorRole::kFfnGate},
    {"up", TensorRole::kFfnUp},
    {"down", TensorRole::kFfnDown},
    {"per_layer_gate", TensorRole::kInpGate},
    {"per_layer_projection", TensorRole::kProj},
    {"head", TensorRole::kOutput},
};
constexpr size_t kUsualTargets = 7;

std::unexpected<Error> bad(std::string_view key, std::string_view must) {
  return fail(ErrorCode::kInvalidArgument, cat("fine-tuning: ", key, " must be ", must));
}

// Reads the members of one object, each at most once, and knows which were never asked for.
class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  // A finite number in [least, most], or in [least, most) with `open`.
  Status number(std::string_view key, double least, double most, auto& out, bool open = false) {
    const Json* value = take(key);
    if (value == nullptr) return {};
    const double x = value->is_number() ? value->get<double>() : NAN;
    if (!(x >= least && (open ? x < most : x <= most)))
      return bad(key, cat("a number from ", least, open ? " to below " : " to ", most));
    out = static_cast<std::remove_reference_t<decltype(out)>>(x);
    return {};
  }
  Status whole(std::string_view key, double least, double most, auto& out) {
    double value = static_cast<double>(out);
    TRY_VOID(number(key, least, most, value));
    if (value != std::floor(value)) return bad(key, "a whole number");
    out = static_cast<std::remove_reference_t<decltype(out)>>(value);
    return {};
  }
  Status flag(std::string_view key, bool& out) {
    const Json* value = take(key);
    if (value == nullptr) return {};
    if (!value->is_boolean()) return bad(key, "true or false");
    out = value->get<bool>();
    return {};
  }
  template <typename T>
  Status choice(std::string_view key, std::initializer_list<std::pair<std::string_view, T>> names,
                T& out) {
    const Json* value = take(key);
    if (value == nullptr) return {};
    std::string all;
    for (const auto& [name, meaning] : names) {
      if (*value == name) {
        out = meaning;
        return {};
      }
      all += cat(all.empty() ? "" : ", ", name);
    }
    return bad(key, cat("one of ", all));
  }
  const Json* take(std::string_view key) {
    asked_.emplace_back(key);
    const Json* value = json_member(json_, key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  Status finish() const {
    for (const auto& [key, value] : json_.items()) {
      if (std::ranges::find(asked_, key) == asked_.end())
        return fail(ErrorCode::kInvalidArgument, cat("fine-tuning has no option '", key, "'"));
    }
    return {};
  }

 private:
  const Json& json_;
  std::vector<std::string> asked_;
};

Status parse_targets(Reader& reader, FinetuneOptions& out) {
  for (size_t i = 0; i < kUsualTargets; ++i) out.targets.push_back(kTargets[i].role);
  const Json* targets = reader.take("targets");
  if (targets == nullptr) return {};
  std::string all;
  for (const TargetName& t : kTargets) all += cat(all.empty() ? "" : ", ", t.name);
  if (!targets->is_array() || targets->empty()) return bad("targets", cat("a list of ", all));
  out.targets.clear();
  for (const Json& target : *targets) {
    const auto* found =
        std::ranges::find_if(kTargets, [&](const TargetName& t) { return target == t.name; });
    if (found == std::end(kTargets)) return bad("targets", cat("a list of ", all));
    if (std::ranges::find(out.targets, found->role) == out.targets.end())
      out.targets.push_back(found->role);
  }
  return {};
}

Status parse_layers(Reader& reader, FinetuneOptions& out) {
  const Json* layers = reader.take("layers");
  if (layers == nullptr) return {};
  const auto refuse = [] { return bad("layers", "a list of layer numbers, from 0"); };
  if (!layers->is_array()) return refuse();
  for (const Json& layer : *layers) {
    if (!layer.is_number_unsigned() || layer.get<uint64_t>() >= model::kMaxLayers) return refuse();
    out.layers.push_back(layer.get<uint32_t>());
  }
  return {};
}

Status parse_data(Reader& reader, FinetuneOptions& out) {
  using dataset::BadLines;
  using dataset::LongExamples;
  using dataset::Supervise;
  TRY_VOID(reader.whole("maxLength", dataset::kMinMaxLength, 1 << 16, out.data.max_length));
  TRY_VOID(reader.choice(
      "longExamples",
      {{"cut", LongExamples::kCut}, {"split", LongExamples::kSplit}, {"drop", LongExamples::kDrop}},
      out.data.long_examples));
  TRY_VOID(reader.choice("badLines", {{"fail", BadLines::kFail}, {"skip", BadLines::kSkip}},
                         out.data.bad_lines));
  TRY_VOID(reader.choice("supervise",
                         {{"all", Supervise::kAllTurns}, {"last", Supervise::kLastTurn}},
                         out.data.encode.supervise));
  TRY_VOID(reader.number("evalFraction", 0, 1, out.eval.fraction, true));
  TRY_VOID(reader.whole("evalCount", 0, 1 << 20, out.eval.count));
  return reader.whole("evalEvery", 0, 1 << 24, out.eval_every);
}

}  // namespace

std::string_view target_name(TensorRole role) {
  for (const TargetName& t : kTargets)
    if (t.role == role) return t.name;
  return "";
}

Result<FinetuneOptions> FinetuneOptions::parse(const Json& json) {
  if (!json.is_object())
    return fail(ErrorCode::kInvalidArgument, "fine-tuning takes an object of options");
  FinetuneOptions out;
  Reader reader(json);
  TRY_VOID(reader.whole("rank", 1, adapter::kMaxRank, out.rank));
  out.alpha = 2 * static_cast<float>(out.rank);
  TRY_VOID(reader.number("alpha", 1e-6, 1e6, out.alpha));
  TRY_VOID(reader.flag("rsLora", out.rs_lora));
  TRY_VOID(reader.number("dropout", 0, 1, out.dropout, true));
  TRY_VOID(parse_targets(reader, out));
  TRY_VOID(parse_layers(reader, out));
  TRY_VOID(reader.number("learningRate", 0, 1, out.learning_rate));
  TRY_VOID(reader.number("beta1", 0, 1, out.beta1, true));
  TRY_VOID(reader.number("beta2", 0, 1, out.beta2, true));
  TRY_VOID(reader.number("epsilon", 1e-12, 1, out.epsilon));
  TRY_VOID(reader.number("weightDecay", 0, 10, out.weight_decay));
  TRY_VOID(reader.number("clip", 0, 1e6, out.clip));
  TRY_VOID(reader.choice("schedule",
                         {{"constant", Schedule::kConstant},
                          {"linear", Schedule::kLinear},
                          {"cosine", Schedule::kCosine},
                          {"cosine-restarts", Schedule::kCosineRestarts}},
                         out.schedule));
  TRY_VOID(reader.number("warmup", 0, 1, out.warmup, true));
  TRY_VOID(reader.whole("restarts", 1, 1000, out.restarts));
  TRY_VOID(reader.number("epochs", 1e-3, 1e5, out.epochs));
  TRY_VOID(reader.whole("steps", 0, 1 << 24, out.steps));
  TRY_VOID(reader.whole("batch", 1, kMostRows, out.rows));
  TRY_VOID(reader.whole("accumulation", 1, 4096, out.accumulation));
  TRY_VOID(reader.flag("pack", out.pack));
  TRY_VOID(reader.flag("checkpointing", out.checkpointing));
  TRY_VOID(reader.whole("seed", 0, 9007199254740991.0, out.seed));
  TRY_VOID(parse_data(reader, out));
  TRY_VOID(reader.finish());
  return out;
}

double learning_rate(const FinetuneOptions& options, uint32_t step, uint32_t steps) {
  const double warm = std::ceil(double{options.warmup} * steps);
  if (step < warm) return options.learning_rate * (step + 1) / warm;
  if (options.schedule == Schedule::kConstant) return options.learning_rate;
  // 0 at the end of the warm-up, 1 past the last step.
  double done = (step - warm) / std::max(1.0, steps - warm);
  if (options.schedule == Schedule::kLinear) return options.learning_rate * (1 - done);
  if (options.schedule == Schedule::kCosineRestarts)
    done = done * options.restarts - std::floor(done * options.restarts);
  return options.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

Result<adapter::LoraAdapter> initial_adapter(const model::Config& config,
                                             const FinetuneOptions& options) {
  adapter::LoraAdapter out{
      .rank = options.rank, .alpha = options.alpha, .rs_lora = options.rs_lora};
  Random random(options.seed, /*stream=*/1);
  const auto wanted = [&](TensorRole role, uint32_t layer) {
    return std::ranges::find(options.targets, role) != options.targets.end() &&
           (options.layers.empty() || role == TensorRole::kOutput ||
            std::ranges::find(options.layers, layer) != options.layers.end());
  };
  const auto add = [&](TensorRole role, uint32_t layer) {
    const model::TensorShape shape = model::expected_shape(config, role, static_cast<int>(layer));
    adapter::LoraModule& m = out.modules.emplace_back();
    m = {.layer = layer,
         .role = role,
         .rank = options.rank,
         .alpha = options.alpha,
         .inputs = static_cast<uint32_t>(shape.dims[0]),
         .outputs = static_cast<uint32_t>(shape.dims[1])};
    m.b.resize(size_t{m.outputs} * m.rank);
    m.a.resize(size_t{m.rank} * m.inputs);
    const double bound = 1 / std::sqrt(double{static_cast<float>(m.inputs)});
    for (float& x : m.a) x = static_cast<float>((random.next() / 4294967296.0 * 2 - 1) * bound);
  };
  for (const uint32_t layer : options.layers) {
    if (layer >= config.layers.size())
      return fail(ErrorCode::kInvalidArgument, cat("fine-tuning: the model has no layer ", layer));
  }
  for (uint32_t layer = 0; layer < config.layers.size(); ++layer) {
    for (const TensorRole role : adapter::kRoles) {
      if (role == TensorRole::kOutput || !wanted(role, layer)) continue;
      const auto need = model::tensor_need(config, role, static_cast<int>(layer));
      if (need != model::TensorNeed::kNone) add(role, layer);
    }
  }
  if (wanted(TensorRole::kOutput, 0)) add(TensorRole::kOutput, 0);
  if (out.modules.empty())
    return fail(ErrorCode::kInvalidArgument, "fine-tuning: the model has none of the targets");
  return out;
}

}  // namespace lapidary::training
