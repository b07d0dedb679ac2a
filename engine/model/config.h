// What a Gemma 4 text model is: its sizes, layer by layer, read from GGUF metadata and validated.
// Every size that the rest of the engine allocates or indexes by comes from here and is bounded
// here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/gguf/header.h"

namespace lapidary::model {

struct LayerConfig {
  bool sliding = false;    // attends to the last Config::window positions; else to all
  bool shares_kv = false;  // computes no K/V of its own: reads the cache of layer kv_source
  bool v_from_k = false;   // has no attn_v: V is the K projection before its norm and rope
  uint32_t head_dim = 0;   // of queries, keys and values; even, at most 512
  uint32_t kv_heads = 0;   // divides Config::heads
  uint32_t ffn = 0;        // width of the (dense) feed-forward network
  uint32_t kv_source = 0;  // the layer whose cache this one reads; its own index unless shares_kv

  uint32_t kv_width() const { return kv_heads * head_dim; }
};

struct Rope {
  float theta = 0;
  uint32_t dims =
      0;  // equals head_dim; global layers leave most pairs unrotated through rope_freqs.weight
};

// Mixture of experts beside the dense network of every layer (26B-A4B).
struct Experts {
  uint32_t count = 0;  // 0: the model has none
  uint32_t used = 0;   // experts a token is sent to
  uint32_t ffn = 0;    // width of one expert
};

// A published member of the family, recognised by its shapes.
struct Variant {
  std::string_view name;  // "E2B"
  uint32_t layers, hidden, ffn, heads, kv_heads_sliding, kv_heads_global, per_layer_dim,
      shared_kv_layers;
  uint32_t experts;
};

struct Config {
  std::string_view family;      // Variant::name, or "custom" for shapes that are in no row
  uint32_t hidden = 0;          // width of the residual stream
  uint32_t heads = 0;           // query heads of every layer
  uint32_t vocab = 0;           // rows of token_embd.weight
  uint32_t context_length = 0;  // the longest sequence that the model was made for
  uint32_t window = 0;          // positions a sliding layer sees, the query's own included
  uint32_t per_layer_dim = 0;   // width of a per-layer embedding; 0: the model has none
  float rms_eps = 0;
  float softcap = 0;  // of the final logits; 0: none
  Rope rope_sliding;
  Rope rope_global;
  Experts experts;
  // Tokens of one image see each other in sliding layers, later ones included (models without
  // per-layer embeddings).
  bool image_bidirectional = false;
  std::vector<LayerConfig> layers;
  std::vector<uint32_t> suppress_tokens;  // never to be generated; ascending, below vocab
  std::vector<uint32_t> eos_tokens;       // each ends a reply; ascending, below vocab

  const Rope& rope(const LayerConfig& layer) const {
    return layer.sliding ? rope_sliding : rope_global;
  }
  uint32_t q_width(const LayerConfig& layer) const { return heads * layer.head_dim; }

  // Reads and validates the keys of gemma4.md §2.1, and looks at the names and shapes of a few
  // tensors (rows of token_embd, layers without attn_v). kUnsupported: another architecture or a
  // feature that we do not have; kNotFound: a key is missing; kInvalidFormat: one is of the wrong
  // type or out of its bounds.
  static Result<Config> from_gguf(const gguf::Header& header);
};

// The largest value(layer) of all layers.
uint32_t max_of(const Config& config, auto value) {
  uint32_t most = 0;
  for (const LayerConfig& layer : config.layers) most = std::max<uint32_t>(most, value(layer));
  return most;
}

// The published models (gemma4.md §1.1).
extern const Variant kVariants[5];

inline constexpr uint32_t kMaxLayers = 256;
inline constexpr uint32_t kMaxHeads = 128;
inline constexpr uint32_t kMaxHeadDim = 512;
inline constexpr uint32_t kMaxHidden = 16384;
inline constexpr uint32_t kMaxFfn = 131072;
inline constexpr uint32_t kMaxVocab = 1u << 20;
inline constexpr uint32_t kMaxContext = 1u << 24;
inline constexpr uint32_t kMaxPerLayerDim = 4096;
inline constexpr uint32_t kMaxExperts = 1024;

}  // namespace lapidary::model
