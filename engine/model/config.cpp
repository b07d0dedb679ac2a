// GGUF metadata -> Config: every key bounded before anything is computed from it.
#include "engine/model/config.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/base/text.h"
#include "engine/model/tensor_table.h"

namespace lapidary::model {

// name, layers, hidden, ffn (first layer), heads, kv heads sliding / global, per-layer dim, shared
// layers, experts
const Variant kVariants[5] = {
    {"E2B", 35, 1536, 6144, 8, 1, 1, 256, 20, 0}, {"E4B", 42, 2560, 10240, 8, 2, 2, 256, 18, 0},
    {"12B", 48, 3840, 15360, 16, 8, 1, 0, 0, 0},  {"26B-A4B", 30, 2816, 2112, 16, 8, 2, 0, 0, 128},
    {"31B", 60, 5376, 21504, 32, 16, 4, 0, 0, 0},
};

namespace {

constexpr std::string_view kArchitecture = "gemma4";

// A number inside its bounds, or a message that names both.
template <typename T>
Status check_range(std::string_view key, T value, T low, T high) {
  if (value >= low && value <= high) return {};  // false for a NaN
  return fail(ErrorCode::kInvalidFormat,
              cat(key, " is ", value, ", expected ", low, " to ", high, ": the file is damaged"));
}

Status check_multiple_of_4(std::string_view key, uint32_t value) {
  if (value % 4 == 0) return {};
  return fail(ErrorCode::kInvalidFormat, cat(key, " is ", value, ", expected a multiple of 4"));
}

Result<uint32_t> read_uint(const gguf::Header& header, std::string_view key, uint32_t low,
                           uint32_t high) {
  TRY(const uint32_t value, header.get_u32(key));
  TRY_VOID(check_range(key, value, low, high));
  return value;
}
Result<uint32_t> read_uint(const gguf::Header& header, std::string_view key, uint32_t low,
                           uint32_t high, uint32_t absent) {
  return header.find(key) ? read_uint(header, key, low, high) : absent;
}

Result<float> read_float(const gguf::Header& header, std::string_view key, double low,
                         double high) {
  TRY(const double value, header.get_float(key));
  TRY_VOID(check_range(key, value, low, high));
  return static_cast<float>(value);
}
Result<float> read_float(const gguf::Header& header, std::string_view key, double low, double high,
                         float absent) {
  return header.find(key) ? read_float(header, key, low, high) : absent;
}

// One number a layer.
Result<std::vector<uint32_t>> read_uints(const gguf::Header& header, std::string_view key,
                                         uint32_t layers, uint32_t low, uint32_t high) {
  TRY(std::vector<uint32_t> values, header.get_u32s(key, layers));
  for (const uint32_t value : values) TRY_VOID(check_range(key, value, low, high));
  return values;
}

// Token ids, each inside the vocabulary; none if the key is absent.
Result<std::vector<uint32_t>> read_ids(const gguf::Header& header, std::string_view key,
                                       uint32_t vocab) {
  if (!header.find(key)) return std::vector<uint32_t>();
  TRY(std::vector<uint32_t> ids, header.get_u32_list(key, vocab));
  for (const uint32_t id : ids) {
    if (id >= vocab) {
      return fail(ErrorCode::kInvalidFormat,
                  cat(key, " names token ", id, ", but the vocabulary has ", vocab, " tokens"));
    }
  }
  return ids;
}

Status check_architecture(const gguf::Header& header) {
  TRY(const std::string_view found, header.get_string("general.architecture"));
  if (found == kArchitecture) {
    TRY(const std::string_view type, header.get_string("general.type", "model"));
    if (type != "model") {
      return fail(
          ErrorCode::kUnsupported,
          cat("this file is of type \"", printable(type), "\" (general.type), not a model: ",
              type == "adapter" ? "load it as an adapter of its base model"
                                : "choose the file that holds the text model"));
    }
    return {};
  }
  std::string_view hint = "this engine runs Gemma 4 (\"gemma4\": E2B, E4B, 12B, 26B-A4B, 31B)";
  std::string_view what = "";
  if (found == "gemma3" || found == "gemma3n" || found == "gemma2" || found == "gemma") {
    what = " (an earlier Gemma, or FunctionGemma)";
  } else if (found == "gemma-embedding") {
    what = " (EmbeddingGemma)";
  } else if (found == "gemma4-assistant") {
    what = " (a drafter that speeds up another model)";
  } else if (found == "clip") {
    what = " (a vision and audio projector that belongs to another file)";
  }
  return fail(ErrorCode::kUnsupported,
              cat("architecture \"", printable(found), "\"", what, " is not supported: ", hint));
}

// Reads what describes single layers: pattern, head sizes, KV heads, widths, and who shares whose
// K/V.
class LayerReader {
 public:
  LayerReader(const gguf::Header& header, Config& config) : header_(header), config_(config) {}

  Status read(uint32_t count) {
    TRY(const std::vector<bool> sliding,
        header_.get_bools("gemma4.attention.sliding_window_pattern", count));
    TRY(const std::vector<uint32_t> kv_heads,
        read_uints(header_, "gemma4.attention.head_count_kv", count, 1, kMaxHeads));
    TRY(const std::vector<uint32_t> ffn,
        read_uints(header_, "gemma4.feed_forward_length", count, 4, kMaxFfn));
    TRY(const uint32_t shared,
        read_uint(header_, "gemma4.attention.shared_kv_layers", 0, kMaxLayers, 0));
    if (shared >= count) {
      return fail(ErrorCode::kInvalidFormat,
                  cat("gemma4.attention.shared_kv_layers is ", shared, ", but the model has ",
                      count, " layers: at least one must have K/V of its own"));
    }
    const bool any_global = std::find(sliding.begin(), sliding.end(), false) != sliding.end();
    const bool any_sliding = std::find(sliding.begin(), sliding.end(), true) != sliding.end();
    uint32_t dim_global = 0;
    uint32_t dim_sliding = 0;
    if (any_global) TRY_VOID(read_kind("", config_.rope_global, dim_global, 0));
    if (any_sliding) {
      TRY_VOID(read_kind("_swa", config_.rope_sliding, dim_sliding, 10000));
      TRY(config_.window, read_uint(header_, "gemma4.attention.sliding_window", 1, kMaxContext));
    }
    config_.layers.resize(count);
    for (uint32_t i = 0; i < count; ++i) {
      LayerConfig& layer = config_.layers[i];
      layer.sliding = sliding[i];
      layer.head_dim = sliding[i] ? dim_sliding : dim_global;
      layer.kv_heads = kv_heads[i];
      layer.ffn = ffn[i];
      layer.kv_source = i;
      if (config_.heads % layer.kv_heads != 0) {
        return fail(ErrorCode::kInvalidFormat,
                    cat("layer ", i, ": ", config_.heads, " query heads cannot share ",
                        layer.kv_heads, " KV heads evenly (gemma4.attention.head_count_kv)"));
      }
      TRY_VOID(check_multiple_of_4("gemma4.feed_forward_length", layer.ffn));
    }
    TRY_VOID(share(count - shared));
    return values_from_keys(count - shared);
  }

 private:
  // Head size and rope of global ("") or sliding ("_swa") layers.
  Status read_kind(std::string_view suffix, Rope& rope, uint32_t& head_dim, float default_theta) {
    const std::string key = cat("gemma4.attention.key_length", suffix);
    TRY(head_dim, read_uint(header_, key, 4, kMaxHeadDim));
    TRY_VOID(check_multiple_of_4(key, head_dim));
    const std::string value_key = cat("gemma4.attention.value_length", suffix);
    TRY(const uint32_t value_dim, read_uint(header_, value_key, 1, UINT32_MAX, head_dim));
    if (value_dim != head_dim) {
      return fail(ErrorCode::kUnsupported,
                  cat(value_key, " is ", value_dim, " and ", key, " is ", head_dim,
                      ": keys and values of different sizes are not supported"));
    }
    const std::string dims_key = cat("gemma4.rope.dimension_count", suffix);
    TRY(rope.dims, read_uint(header_, dims_key, 1, UINT32_MAX, head_dim));
    if (rope.dims != head_dim) {
      return fail(ErrorCode::kUnsupported,
                  cat(dims_key, " is ", rope.dims, ", expected the head size ", head_dim,
                      ": a model rotates part of a head only through rope_freqs.weight"));
    }
    const std::string theta_key = cat("gemma4.rope.freq_base", suffix);
    TRY(rope.theta, default_theta > 0 ? read_float(header_, theta_key, 1, 1e12, default_theta)
                                      : read_float(header_, theta_key, 1, 1e12));
    return {};
  }

  // Layers from `first` on read the cache of the last layer of their kind before it.
  Status share(uint32_t first) {
    for (uint32_t i = first; i < config_.layers.size(); ++i) {
      LayerConfig& layer = config_.layers[i];
      uint32_t source = first;
      while (source > 0 && config_.layers[source - 1].sliding != layer.sliding) --source;
      if (source == 0) {
        return fail(ErrorCode::kInvalidFormat, cat("layer ", i, " shares K/V, but none of the ",
                                                   first, " layers with K/V of their own is a ",
                                                   layer.sliding ? "sliding" : "global", " one"));
      }
      layer.shares_kv = true;
      layer.kv_source = source - 1;
      if (config_.layers[source - 1].kv_heads != layer.kv_heads) {
        return fail(
            ErrorCode::kInvalidFormat,
            cat("layer ", i, " has ", layer.kv_heads, " KV heads, but shares the K/V of layer ",
                layer.kv_source, ", which has ", config_.layers[layer.kv_source].kv_heads));
      }
    }
    return {};
  }

  // 12B, 26B and 31B have no attn_v on their global layers. A model that has it on some but not on
  // others is incomplete, and check_tensors will name what is missing.
  Status values_from_keys(uint32_t first_shared) {
    if (config_.per_layer_dim > 0) return {};
    bool all_absent = true;
    for (uint32_t i = 0; i < first_shared; ++i) {
      if (!config_.layers[i].sliding &&
          find_tensor(header_, TensorRole::kAttnV, static_cast<int>(i))) {
        all_absent = false;
      }
    }
    for (uint32_t i = 0; all_absent && i < first_shared; ++i) {
      config_.layers[i].v_from_k = !config_.layers[i].sliding;
    }
    return {};
  }

  const gguf::Header& header_;
  Config& config_;
};

Status read_experts(const gguf::Header& header, Experts& experts) {
  TRY(experts.count, read_uint(header, "gemma4.expert_count", 0, kMaxExperts, 0));
  if (experts.count == 0) {
    if (!find_tensor(header, TensorRole::kRouter)) return {};
    return fail(ErrorCode::kInvalidFormat,
                cat("gemma4.expert_count is 0 or missing, but there is a tensor ",
                    tensor_name(TensorRole::kRouter), ": the file is damaged"));
  }
  TRY(experts.used, read_uint(header, "gemma4.expert_used_count", 1, experts.count));
  TRY(experts.ffn, read_uint(header, "gemma4.expert_feed_forward_length", 4, kMaxFfn));
  return check_multiple_of_4("gemma4.expert_feed_forward_length", experts.ffn);
}

// The vocabulary is what token_embd holds; the tokenizer's list, if there is one, must agree.
Result<uint32_t> read_vocab(const gguf::Header& header) {
  const gguf::TensorInfo* table = find_tensor(header, TensorRole::kTokenEmbd);
  if (!table) {
    return fail(ErrorCode::kNotFound,
                "tensor token_embd.weight is missing: the file holds no text model");
  }
  const uint64_t rows = table->dims[1];
  TRY_VOID(check_range("the number of rows of token_embd.weight", rows, uint64_t{1},
                       uint64_t{kMaxVocab}));
  if (header.find("tokenizer.ggml.tokens")) {
    TRY(const gguf::ArrayView tokens, header.get_array("tokenizer.ggml.tokens"));
    if (tokens.size() != rows) {
      return fail(ErrorCode::kInvalidFormat,
                  cat("tokenizer.ggml.tokens lists ", tokens.size(),
                      " tokens, but token_embd.weight has ", rows, " rows"));
    }
  }
  return static_cast<uint32_t>(rows);
}

void sort_unique(std::vector<uint32_t>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

Status read_special_tokens(const gguf::Header& header, Config& config) {
  TRY(config.suppress_tokens, read_ids(header, "tokenizer.ggml.suppress_tokens", config.vocab));
  TRY(config.eos_tokens, read_ids(header, "tokenizer.ggml.eos_token_ids", config.vocab));
  TRY(const std::vector<uint32_t> eos,
      read_ids(header, "tokenizer.ggml.eos_token_id", config.vocab));
  config.eos_tokens.insert(config.eos_tokens.end(), eos.begin(), eos.end());
  // <eos>, <turn|>, <|tool_response>: files name only one or two of the three (gemma4.md §2.2).
  for (const uint32_t id : {1u, 106u, 50u}) {
    if (id < config.vocab) config.eos_tokens.push_back(id);
  }
  sort_unique(config.suppress_tokens);
  sort_unique(config.eos_tokens);
  return {};
}

std::string_view family_of(const Config& config, uint32_t shared) {
  uint32_t sliding_kv = 0;
  uint32_t global_kv = 0;
  for (const LayerConfig& layer : config.layers)
    (layer.sliding ? sliding_kv : global_kv) = layer.kv_heads;
  for (const Variant& v : kVariants) {
    if (v.layers == config.layers.size() && v.hidden == config.hidden &&
        v.ffn == config.layers[0].ffn && v.heads == config.heads &&
        v.kv_heads_sliding == sliding_kv && v.kv_heads_global == global_kv &&
        v.per_layer_dim == config.per_layer_dim && v.shared_kv_layers == shared &&
        v.experts == config.experts.count) {
      return v.name;
    }
  }
  return "custom";
}

}  // namespace

Result<Config> Config::from_gguf(const gguf::Header& header) {
  TRY_VOID(check_architecture(header));
  Config config;
  TRY(const uint32_t layers, read_uint(header, "gemma4.block_count", 1, kMaxLayers));
  TRY(config.context_length, read_uint(header, "gemma4.context_length", 1, kMaxContext));
  TRY(config.hidden, read_uint(header, "gemma4.embedding_length", 4, kMaxHidden));
  TRY_VOID(check_multiple_of_4("gemma4.embedding_length", config.hidden));
  TRY(const std::vector<uint32_t> heads,
      read_uints(header, "gemma4.attention.head_count", layers, 1, kMaxHeads));
  config.heads = heads[0];
  if (std::count(heads.begin(), heads.end(), config.heads) !=
      static_cast<ptrdiff_t>(heads.size())) {
    return fail(ErrorCode::kUnsupported,
                "gemma4.attention.head_count differs from layer to layer, which is not supported");
  }
  TRY(config.per_layer_dim,
      read_uint(header, "gemma4.embedding_length_per_layer_input", 0, kMaxPerLayerDim, 0));
  TRY_VOID(check_multiple_of_4("gemma4.embedding_length_per_layer_input", config.per_layer_dim));
  config.image_bidirectional = config.per_layer_dim == 0;
  TRY(config.rms_eps, read_float(header, "gemma4.attention.layer_norm_rms_epsilon", 0, 0.1));
  TRY(config.softcap, read_float(header, "gemma4.final_logit_softcapping", 0, 1e6, 0));
  TRY_VOID(read_experts(header, config.experts));
  TRY(config.vocab, read_vocab(header));
  TRY_VOID(LayerReader(header, config).read(layers));
  TRY_VOID(read_special_tokens(header, config));
  uint32_t shared = 0;
  for (const LayerConfig& layer : config.layers) shared += layer.shares_kv ? 1 : 0;
  config.family = family_of(config, shared);
  return config;
}

}  // namespace lapidary::model
