#include "engine/adapter/rullama.h"

#include <algorithm>

#include "engine/adapter/collector.h"
#include "engine/adapter/safetensors.h"
#include "engine/base/json.h"
#include "engine/base/text.h"

namespace lapidary::adapter {
namespace {

using model::TensorRole;

constexpr std::string_view kFormat = "rullama-lora-v0";

struct RullamaModule {
  std::string_view name;
  TensorRole role;
};
constexpr RullamaModule kModules[] = {
    {"attn_q", TensorRole::kAttnQ},           {"attn_k", TensorRole::kAttnK},
    {"attn_v", TensorRole::kAttnV},           {"attn_o", TensorRole::kAttnOutput},
    {"attn_output", TensorRole::kAttnOutput}, {"ffn_gate", TensorRole::kFfnGate},
    {"ffn_up", TensorRole::kFfnUp},           {"ffn_down", TensorRole::kFfnDown},
    {"lm_head", TensorRole::kOutput},
};

std::unexpected<Error> invalid(const std::string& message) {
  return fail(ErrorCode::kInvalidFormat, cat("rullama adapter: ", message));
}

// lora.blk.{layer}.{module}.{A|B}; the head is kept under layer 0.
Result<Target> parse_name(std::string_view full) {
  constexpr std::string_view kPrefix = "lora.blk.";
  const auto unknown = [&] {
    return fail(ErrorCode::kUnsupported,
                cat("rullama adapter: tensor '", printable(full, 128),
                    "' changes a module that adapters cannot change here"));
  };
  std::string_view name = full;
  const bool is_a = name.ends_with(".A");
  if (!name.starts_with(kPrefix) || !(is_a || name.ends_with(".B"))) return unknown();
  name.remove_prefix(kPrefix.size());
  const size_t dot = name.find('.');
  if (dot + 2 >= name.size()) return unknown();  // "3.A": no module
  const auto layer = parse_layer(name.substr(0, dot));
  const auto* module = std::ranges::find(kModules, name.substr(dot + 1, name.size() - dot - 3),
                                         &RullamaModule::name);
  if (!layer || module == std::end(kModules)) return unknown();
  if (module->role == TensorRole::kOutput && *layer != 0) return unknown();
  return Target{*layer, module->role, is_a ? Half::kA : Half::kB};
}

Result<float> parse_alpha(const Safetensors& file) {
  const std::string* text = file.find_metadata("alpha");
  if (!text) return invalid("'alpha' is missing from the metadata");
  const auto value = parse_json(*text, "alpha", 1);
  if (!value || !value->is_number()) {
    return invalid(cat("'alpha' is '", printable(*text), "', not a number"));
  }
  const std::optional<float> alpha = float_alpha(value->get<double>());
  if (!alpha) return invalid("'alpha' is too large");
  return *alpha;
}

}  // namespace

Result<LoraAdapter> read_rullama(Bytes safetensors) {
  TRY(const Safetensors file, parse_safetensors(safetensors));
  const std::string* format = file.find_metadata("format");
  if (!format || *format != kFormat) {
    return fail(ErrorCode::kUnsupported,
                cat("rullama adapter: the metadata's 'format' is not '", kFormat, "'"));
  }
  LoraAdapter adapter;
  Collector collector;
  for (const SafetensorsEntry& tensor : file.tensors) {
    TRY(const Target target, parse_name(tensor.name));
    if (tensor.shape.size() != 2) {
      return invalid(cat("tensor '", printable(tensor.name, 128), "' has ", tensor.shape.size(),
                         " dimensions, not 2"));
    }
    TRY(std::vector<float> values, to_floats(tensor));
    TRY_VOID(
        collector.add(target, tensor.name, tensor.shape[0], tensor.shape[1], std::move(values)));
  }
  TRY(adapter.modules, std::move(collector).finish());
  TRY(adapter.alpha, parse_alpha(file));
  adapter.rank = adapter.modules[0].rank;
  const std::string* rank = file.find_metadata("rank");
  if (!rank || *rank != cat(adapter.rank)) return invalid("'rank' is not that of the matrices");
  for (LoraModule& module : adapter.modules) {
    if (module.rank != adapter.rank) return invalid(cat(module_name(module), " has another rank"));
    module.alpha = adapter.alpha;
  }
  TRY_VOID(check(adapter));
  return adapter;
}

}  // namespace lapidary::adapter
