#include "engine/adapter/peft.h"

#include <algorithm>
#include <array>

#include "engine/adapter/collector.h"
#include "engine/adapter/safetensors.h"
#include "engine/base/json.h"
#include "engine/base/text.h"

namespace lapidary::adapter {
namespace {

using model::TensorRole;

constexpr std::string_view kRoot = "base_model.model.";
constexpr std::string_view kTextLayers = "model.layers.";
constexpr std::string_view kMultimodalLayers = "model.language_model.layers.";
// The last is how older releases of Transformers named the multimodal model.
constexpr std::string_view kLayerPrefixes[] = {kTextLayers, kMultimodalLayers,
                                               "language_model.model.layers."};
constexpr std::string_view kHead = "lm_head";
// PEFT ignores the metadata of the safetensors file, so what its config has no key for goes there.
constexpr std::string_view kNameKey = "lapidary.name";
constexpr std::string_view kDigestKey = "lapidary.base_model_digest";

struct PeftModule {
  TensorRole role;
  std::string_view name;  // below the layer
};
constexpr PeftModule kModules[] = {
    {TensorRole::kAttnQ, "self_attn.q_proj"},    {TensorRole::kAttnK, "self_attn.k_proj"},
    {TensorRole::kAttnV, "self_attn.v_proj"},    {TensorRole::kAttnOutput, "self_attn.o_proj"},
    {TensorRole::kFfnGate, "mlp.gate_proj"},     {TensorRole::kFfnUp, "mlp.up_proj"},
    {TensorRole::kFfnDown, "mlp.down_proj"},     {TensorRole::kInpGate, "per_layer_input_gate"},
    {TensorRole::kProj, "per_layer_projection"},
};

std::unexpected<Error> invalid(const std::string& message) {
  return fail(ErrorCode::kInvalidFormat, cat("PEFT adapter: ", message));
}
std::unexpected<Error> unsupported(const std::string& message) {
  return fail(ErrorCode::kUnsupported, cat("PEFT adapter: ", message));
}

std::string_view last_part(std::string_view name) {
  return name.substr(name.rfind('.') + 1);  // npos + 1 is 0
}

// "model.layers.3.self_attn.q_proj": the module as PEFT's config names it.
std::string peft_name(const LoraModule& module, std::string_view layers) {
  if (module.role == TensorRole::kOutput) return std::string(kHead);
  const auto* info = std::ranges::find(kModules, module.role, &PeftModule::role);
  return cat(layers, module.layer, ".", info->name);
}

// --- names of tensors

Result<Target> parse_name(std::string_view full) {
  const std::string where = cat("tensor '", printable(full, 128), "'");
  const auto unknown = [&](std::string_view why) { return unsupported(cat(where, " ", why)); };
  if (full.contains(".lora_magnitude_vector")) return unknown("belongs to DoRA");
  if (full.contains(".lora_embedding_")) return unknown("changes an embedding");
  if (!full.starts_with(kRoot)) return unknown("is not below 'base_model.model.'");
  std::string_view name = full.substr(kRoot.size());
  Target target;
  constexpr std::pair<std::string_view, Half> kEnds[] = {{".lora_A.weight", Half::kA},
                                                         {".lora_A.default.weight", Half::kA},
                                                         {".lora_B.weight", Half::kB},
                                                         {".lora_B.default.weight", Half::kB}};
  const auto* end =
      std::ranges::find_if(kEnds, [&](const auto& e) { return name.ends_with(e.first); });
  if (end == std::end(kEnds)) {
    return unknown("is not a LoRA matrix (….lora_A.weight or ….lora_B.weight)");
  }
  target.half = end->second;
  name.remove_suffix(end->first.size());
  if (name == kHead) return target;
  for (const std::string_view prefix : kLayerPrefixes) {
    if (!name.starts_with(prefix)) continue;
    name.remove_prefix(prefix.size());
    const size_t dot = name.find('.');
    const auto layer = parse_layer(name.substr(0, dot));
    if (!layer || dot == std::string_view::npos) return unknown("names no layer");
    const auto* module = std::ranges::find(kModules, name.substr(dot + 1), &PeftModule::name);
    if (module == std::end(kModules)) break;
    target.layer = *layer;
    target.role = module->role;
    return target;
  }
  return unknown("changes a module that adapters cannot change here");
}

// --- adapter_config.json

// Nothing that would make a difference: absent, null, false, empty.
bool is_off(const Json* value) {
  return !value || value->is_null() || (value->is_boolean() && !value->get<bool>()) ||
         ((value->is_array() || value->is_object()) && value->empty()) ||
         (value->is_string() && value->get_ref<const std::string&>().empty());
}

// Keys that stand for a change to the model which is not A and B alone.
constexpr std::string_view kRefusedKeys[] = {
    "modules_to_save",         "lora_bias",         "fan_in_fan_out",         "layer_replication",
    "trainable_token_indices", "target_parameters", "alora_invocation_tokens"};
// Ways to start that take a part out of the base: the adapter is right for that base only.
constexpr std::string_view kRefusedStarts[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};

Status refuse_others(const Json& config) {
  for (const std::string_view key : kRefusedKeys) {
    if (!is_off(json_member(config, key))) return unsupported(cat("'", key, "' is not supported"));
  }
  for (const auto& [key, value] : config.items()) {
    // DoRA and its like switch on by use_dora, use_qalora, …: a new one must not pass for LoRA.
    if (key.starts_with("use_") && key != "use_rslora" && !is_off(&value)) {
      return unsupported(cat("'", printable(key), "' is not supported"));
    }
  }
  if (const Json* start = json_member(config, "init_lora_weights"); start && start->is_string()) {
    const auto& text = start->get_ref<const std::string&>();
    for (const std::string_view refused : kRefusedStarts) {
      if (text.starts_with(refused)) {
        return unsupported(cat("'init_lora_weights' is '", printable(text),
                               "', which changes the base model as well"));
      }
    }
  }
  const Json* bias = json_member(config, "bias");
  if (!is_off(bias) && *bias != "none") return unsupported("'bias' is not 'none'");
  return {};
}

Status check_targets(const Json& config) {
  const Json* targets = json_member(config, "target_modules");
  // A text is a pattern: what it chose shows in the names of the tensors.
  if (is_off(targets) || targets->is_string()) return {};
  if (!targets->is_array()) return invalid("'target_modules' is not a list");
  for (const Json& target : *targets) {
    if (!target.is_string()) return invalid("'target_modules' holds something other than names");
    const std::string_view name = target.get_ref<const std::string&>();
    const bool known =
        last_part(name) == kHead || std::ranges::any_of(kModules, [&](const auto& m) {
          return last_part(m.name) == last_part(name);
        });
    if (!known) {
      return unsupported(
          cat("target module '", printable(name), "' cannot be changed by an adapter here"));
    }
  }
  return {};
}

Result<float> parse_alpha(const Json& value, std::string_view where) {
  if (!value.is_number()) return invalid(cat(where, " is not a number"));
  const std::optional<float> alpha = float_alpha(value.get<double>());
  if (!alpha) return invalid(cat(where, " is too large"));
  return *alpha;
}

Result<uint32_t> parse_rank(const Json& value, std::string_view where) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() == 0) {
    return invalid(cat(where, " is not a positive whole number"));
  }
  if (value.get<uint64_t>() > kMaxRank) {
    return unsupported(
        cat(where, " is ", value.get<uint64_t>(), "; at most ", kMaxRank, " is supported"));
  }
  return static_cast<uint32_t>(value.get<uint64_t>());
}

// rank_pattern or alpha_pattern: what its first pattern that fits a module gives it. PEFT takes
// patterns as regular expressions that match the end of a name from a dot on; we take those that
// are plain names, with '^' for a whole name.
class Patterns {
 public:
  static Result<Patterns> parse(const Json& config, std::string_view key) {
    Patterns out;
    const Json* object = json_member(config, key);
    if (is_off(object)) return out;
    if (!object->is_object()) return invalid(cat("'", key, "' is not an object"));
    for (const auto& [pattern, value] : object->items()) {
      const std::string where = cat("'", key, "' of '", printable(pattern), "'");
      const std::string_view plain =
          std::string_view(pattern).substr(pattern.starts_with('^') ? 1 : 0);
      const auto is_plain = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '.';
      };
      if (plain.empty() || !std::ranges::all_of(plain, is_plain)) {
        return unsupported(cat(where, ": only plain names are supported as patterns"));
      }
      out.entries_.push_back({pattern, value, where});
    }
    return out;
  }

  struct Entry {
    std::string pattern;
    Json value;
    std::string where;
  };
  const Entry* find(std::string_view name) const {
    for (const Entry& entry : entries_) {
      if (fits(entry.pattern, name)) return &entry;
    }
    return nullptr;
  }

 private:
  static bool fits(std::string_view pattern, std::string_view name) {
    if (pattern.starts_with('^')) return name == pattern.substr(1);
    return name == pattern ||
           (name.ends_with(pattern) && name[name.size() - pattern.size() - 1] == '.');
  }

  std::vector<Entry> entries_;
};

Result<Json> parse_config(std::string_view text) {
  if (text.size() > kMaxPeftConfigBytes) {
    return unsupported(
        cat("a config of ", text.size(), " bytes; at most ", kMaxPeftConfigBytes, " are read"));
  }
  TRY(Json config, parse_json(text, "adapter_config.json", 16));
  if (!config.is_object()) return invalid("adapter_config.json is not a JSON object");
  const Json* type = json_member(config, "peft_type");
  if (!type || !type->is_string()) return invalid("'peft_type' is missing");
  if (*type != "LORA") {
    return unsupported(
        cat("'peft_type' is '", printable(type->get_ref<const std::string&>()), "', not 'LORA'"));
  }
  TRY_VOID(refuse_others(config));
  TRY_VOID(check_targets(config));
  return config;
}

// Ranks and alphas as the config gives them, which the matrices must agree with.
Status apply_config(LoraAdapter& adapter, const Json& config, std::string_view layers) {
  const Json* rank = json_member(config, "r");
  if (!rank) return invalid("'r' is missing");
  TRY(adapter.rank, parse_rank(*rank, "'r'"));
  const Json* alpha = json_member(config, "lora_alpha");
  if (!alpha) return invalid("'lora_alpha' is missing");
  TRY(adapter.alpha, parse_alpha(*alpha, "'lora_alpha'"));
  if (const Json* rs_lora = json_member(config, "use_rslora"); rs_lora && !rs_lora->is_null()) {
    if (!rs_lora->is_boolean()) return invalid("'use_rslora' is not true or false");
    adapter.rs_lora = rs_lora->get<bool>();
  }
  if (const Json* base = json_member(config, "base_model_name_or_path");
      base && base->is_string()) {
    adapter.base_model = base->get_ref<const std::string&>();
  }
  TRY(const Patterns ranks, Patterns::parse(config, "rank_pattern"));
  TRY(const Patterns alphas, Patterns::parse(config, "alpha_pattern"));
  for (LoraModule& module : adapter.modules) {
    const std::string name = peft_name(module, layers);
    uint32_t expected = adapter.rank;
    if (const Patterns::Entry* entry = ranks.find(name)) {
      TRY(expected, parse_rank(entry->value, entry->where));
    }
    if (module.rank != expected) {
      return invalid(
          cat(name, " has rank ", module.rank, ", but adapter_config.json says ", expected));
    }
    module.alpha = adapter.alpha;
    if (const Patterns::Entry* entry = alphas.find(name)) {
      TRY(module.alpha, parse_alpha(entry->value, entry->where));
    }
  }
  return {};
}

Json alpha_json(float alpha) {
  // PEFT's own alphas are whole numbers nearly always, and look like them.
  if (alpha < 1e6f && alpha == std::floor(alpha)) return static_cast<uint32_t>(alpha);
  return double{alpha};
}

}  // namespace

Result<LoraAdapter> read_peft(Bytes safetensors, std::string_view config_text) {
  TRY(const Json config, parse_config(config_text));
  TRY(const Safetensors file, parse_safetensors(safetensors));
  LoraAdapter adapter;
  Collector collector;
  std::string_view layers = kTextLayers;
  for (const SafetensorsEntry& tensor : file.tensors) {
    TRY(const Target target, parse_name(tensor.name));
    if (tensor.shape.size() != 2) {
      return invalid(cat("tensor '", printable(tensor.name, 128), "' has ", tensor.shape.size(),
                         " dimensions, not 2"));
    }
    for (const std::string_view prefix : kLayerPrefixes) {
      if (std::string_view(tensor.name).substr(kRoot.size()).starts_with(prefix)) layers = prefix;
    }
    TRY(std::vector<float> values, to_floats(tensor));
    TRY_VOID(
        collector.add(target, tensor.name, tensor.shape[0], tensor.shape[1], std::move(values)));
  }
  TRY(adapter.modules, std::move(collector).finish());
  TRY_VOID(apply_config(adapter, config, layers));
  if (const std::string* name = file.find_metadata(kNameKey)) adapter.name = *name;
  if (const std::string* digest = file.find_metadata(kDigestKey)) adapter.base_digest = *digest;
  TRY_VOID(check(adapter));
  return adapter;
}

Result<PeftFiles> write_peft(const LoraAdapter& adapter, PeftNames names) {
  TRY_VOID(check(adapter));
  const std::string_view layers = names == PeftNames::kText ? kTextLayers : kMultimodalLayers;
  std::vector<SafetensorsOutput> tensors;
  Json targets = Json::array();
  Json ranks = Json::object();
  Json alphas = Json::object();
  for (const LoraModule& module : adapter.modules) {
    const std::string name = peft_name(module, layers);
    tensors.push_back({cat(kRoot, name, ".lora_A.weight"), {module.rank, module.inputs}, module.a});
    tensors.push_back(
        {cat(kRoot, name, ".lora_B.weight"), {module.outputs, module.rank}, module.b});
    // In the multimodal model "q_proj" would also mean the vision tower's.
    const std::string target(names == PeftNames::kText ? last_part(name) : name);
    if (!std::ranges::contains(targets, Json(target))) targets.push_back(target);
    if (module.rank != adapter.rank) ranks[name] = module.rank;
    if (module.alpha != adapter.alpha) alphas[name] = alpha_json(module.alpha);
  }
  std::vector<std::pair<std::string, std::string>> metadata = {{"format", "pt"}};
  if (!adapter.name.empty()) metadata.emplace_back(kNameKey, adapter.name);
  if (!adapter.base_digest.empty()) metadata.emplace_back(kDigestKey, adapter.base_digest);

  Json config;
  config["peft_type"] = "LORA";
  config["task_type"] = "CAUSAL_LM";
  config["base_model_name_or_path"] =
      adapter.base_model.empty() ? Json(nullptr) : Json(adapter.base_model);
  config["inference_mode"] = true;
  config["r"] = adapter.rank;
  config["lora_alpha"] = alpha_json(adapter.alpha);
  config["use_rslora"] = adapter.rs_lora;
  config["lora_dropout"] = 0.0;
  config["bias"] = "none";
  config["target_modules"] = std::move(targets);
  config["rank_pattern"] = std::move(ranks);
  config["alpha_pattern"] = std::move(alphas);
  PeftFiles files;
  TRY(files.model, write_safetensors(tensors, metadata));
  files.config = config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  return files;
}

}  // namespace lapidary::adapter
