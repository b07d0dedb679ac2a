#include "engine/model/drafter_config.h"

#include <algorithm>
#include <string>

#include "engine/base/text.h"
#include "engine/model/tensor_table.h"
#include "engine/model/tower_tensors.h"

namespace lapidary::model {
namespace {

constexpr std::string_view kArchitecture = "gemma4-assistant";

std::string key(std::string_view name) { return cat(kArchitecture, ".", name); }

std::unexpected<Error> other_target(std::string_view what, uint64_t found, uint64_t expected) {
  return fail(ErrorCode::kInvalidFormat,
              cat("the drafter's ", what, " is ", found, ", the model's ", expected,
                  ": it is a drafter of another model"));
}

Status check_architecture(const gguf::Header& header) {
  TRY(const std::string_view found, header.get_string("general.architecture"));
  if (found == kArchitecture) return {};
  return fail(ErrorCode::kUnsupported,
              cat("architecture \"", printable(found), "\" is none of a drafter (\"", kArchitecture,
                  "\"): choose the file that llama.cpp calls mtp"));
}

// One number a layer, each from `low` to `high`.
Result<std::vector<uint32_t>> bounded_u32s(const gguf::Header& header, const std::string& name,
                                           uint32_t layers, uint32_t low, uint32_t high) {
  TRY(std::vector<uint32_t> values, header.get_u32s(name, layers));
  for (const uint32_t value : values) {
    if (value < low || value > high) {
      return fail(ErrorCode::kInvalidFormat, cat(name, " is ", value, ", expected ", low, " to ",
                                                 high, ": the file is damaged"));
    }
  }
  return values;
}

Result<float> rope_theta(const gguf::Header& header, const std::string& name, double absent) {
  TRY(const double theta, absent > 0 ? header.get_float(name, absent) : header.get_float(name));
  if (theta >= 1 && theta <= 1e12) return static_cast<float>(theta);
  return fail(ErrorCode::kInvalidFormat, cat(name, " is out of its bounds: the file is damaged"));
}

// The last layer of a kind that has K/V of its own; none: the target has no such layer.
const LayerConfig* source_of(const Config& target, bool sliding) {
  const LayerConfig* found = nullptr;
  for (const LayerConfig& layer : target.layers)
    if (!layer.shares_kv && layer.sliding == sliding) found = &layer;
  return found;
}

Status read_layers(const gguf::Header& header, const Config& target, uint32_t count, Config& out) {
  TRY(const std::vector<bool> sliding,
      header.get_bools(key("attention.sliding_window_pattern"), count));
  TRY(const std::vector<uint32_t> kv_heads,
      bounded_u32s(header, key("attention.head_count_kv"), count, 1, kMaxHeads));
  TRY(const std::vector<uint32_t> ffn,
      bounded_u32s(header, key("feed_forward_length"), count, 4, kMaxFfn));
  for (uint32_t i = 0; i < count; ++i) {
    const std::string_view suffix = sliding[i] ? "_swa" : "";
    const LayerConfig* source = source_of(target, sliding[i]);
    if (source == nullptr) {
      return fail(ErrorCode::kInvalidFormat,
                  cat("layer ", i, " of the drafter reads the K/V of a ",
                      sliding[i] ? "sliding" : "global", " layer, of which the model has none"));
    }
    TRY(const uint32_t head_dim,
        bounded_u32(header, key(cat("attention.key_length", suffix)), 4, kMaxHeadDim));
    if (head_dim != source->head_dim) return other_target("head size", head_dim, source->head_dim);
    TRY(const uint32_t value_dim,
        header.get_u32(key(cat("attention.value_length", suffix)), head_dim));
    if (value_dim != head_dim) return other_target("value size", value_dim, head_dim);
    if (kv_heads[i] != source->kv_heads)
      return other_target("number of KV heads", kv_heads[i], source->kv_heads);
    if (out.heads % kv_heads[i] != 0) {
      return fail(ErrorCode::kInvalidFormat,
                  cat(key("attention.head_count"), " is ", out.heads, ", which ", kv_heads[i],
                      " KV heads cannot share evenly"));
    }
    if (ffn[i] % 4 != 0) {
      return fail(ErrorCode::kInvalidFormat,
                  cat(key("feed_forward_length"), " is ", ffn[i], ", expected a multiple of 4"));
    }
    Rope& rope = sliding[i] ? out.rope_sliding : out.rope_global;
    rope.dims = head_dim;
    TRY(rope.theta, rope_theta(header, key(cat("rope.freq_base", suffix)), sliding[i] ? 1e4 : 0));
    if (sliding[i]) {
      TRY(const uint32_t window,
          bounded_u32(header, key("attention.sliding_window"), 2, kMaxContext));
      if (window != target.window) return other_target("window", window, target.window);
      out.window = window - 1;
    }
    out.layers.push_back({.sliding = sliding[i],
                          .shares_kv = true,
                          .head_dim = head_dim,
                          .kv_heads = kv_heads[i],
                          .ffn = ffn[i],
                          .kv_source = static_cast<uint32_t>(source - target.layers.data())});
  }
  return {};
}

Status check_matrix(const gguf::Header& header, std::string_view name, uint64_t cols,
                    uint64_t rows) {
  const gguf::TensorInfo* tensor = header.tensor(name);
  if (tensor == nullptr) {
    return fail(ErrorCode::kNotFound,
                cat("tensor ", name, " is missing: the drafter is incomplete"));
  }
  if (tensor->dims != std::array<uint64_t, 4>{cols, rows, 1, 1}) {
    return fail(ErrorCode::kInvalidFormat,
                cat("tensor ", name, " is no matrix of ", rows, " rows and ", cols,
                    " columns: it is a drafter of another model"));
  }
  if (gguf::tensor_type_info(tensor->type).decodable) return {};
  return fail(ErrorCode::kUnsupported,
              cat("tensor ", name, " is of type ", gguf::tensor_type_info(tensor->type).name,
                  ", which is not read"));
}

}  // namespace

Result<Config> read_drafter_config(const gguf::Header& header, const Config& target) {
  TRY_VOID(check_architecture(header));
  Config config;
  config.family = "drafter";
  TRY(const uint32_t layers, bounded_u32(header, key("block_count"), 1, kMaxDrafterLayers));
  TRY(config.hidden, bounded_u32(header, key("embedding_length"), 4, kMaxHidden));
  if (config.hidden % 4 != 0) {
    return fail(ErrorCode::kInvalidFormat,
                cat(key("embedding_length"), " is ", config.hidden, ", expected a multiple of 4"));
  }
  TRY(const uint32_t target_hidden, header.get_u32(key("embedding_length_out"), target.hidden));
  if (target_hidden != target.hidden)
    return other_target("width of the model", target_hidden, target.hidden);
  TRY(const uint32_t predicts, header.get_u32(key("nextn_predict_layers"), layers));
  if (predicts != layers) {
    return fail(ErrorCode::kUnsupported, cat(key("nextn_predict_layers"), " is ", predicts, " of ",
                                             layers, " layers, which is not supported"));
  }
  TRY(const std::vector<uint32_t> heads,
      bounded_u32s(header, key("attention.head_count"), layers, 1, kMaxHeads));
  config.heads = heads[0];
  if (std::ranges::any_of(heads, [&](uint32_t count) { return count != config.heads; })) {
    return fail(ErrorCode::kUnsupported, cat(key("attention.head_count"),
                                             " differs from layer to layer, which is not "
                                             "supported"));
  }
  TRY(config.rms_eps, tower_eps(header, key("attention.layer_norm_rms_epsilon")));
  config.vocab = target.vocab;
  const gguf::TensorInfo* table = find_tensor(header, TensorRole::kTokenEmbd);
  if (table != nullptr && table->dims[1] != target.vocab)
    return other_target("vocabulary", table->dims[1], target.vocab);
  TRY_VOID(read_layers(header, target, layers, config));
  return config;
}

Result<Config> check_drafter(const gguf::Header& header, const Config& target) {
  TRY(Config config, read_drafter_config(header, target));
  TRY_VOID(check_tensors(config, header));
  TRY_VOID(check_matrix(header, kPreProjection, 2 * uint64_t{target.hidden}, config.hidden));
  TRY_VOID(check_matrix(header, kPostProjection, config.hidden, target.hidden));
  return config;
}

Status check_drafter_vocabulary(const gguf::Header& header, const gguf::Header& target) {
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  if (header.find(kTokens) == nullptr || target.find(kTokens) == nullptr) return {};
  TRY(const gguf::ArrayView own, header.get_array(kTokens));
  TRY(const gguf::ArrayView wanted, target.get_array(kTokens));
  if (own.element_type() == wanted.element_type() && own.size() == wanted.size() &&
      std::ranges::equal(own.data(), wanted.data()))
    return {};
  return fail(ErrorCode::kInvalidFormat,
              "the drafter lists other tokens than the model: it is a drafter of another model");
}

}  // namespace lapidary::model
