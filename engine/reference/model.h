// The text model in plain loops on the CPU: the oracle that tests compare the GPU with. Weights are
// decoded to f32 (at load, or a row when it is used), activations are f32, sums are double; it
// follows gemma4.md §4 line by line and is in no hurry.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/gguf/header.h"
#include "engine/model/config.h"

namespace lapidary::reference {

// Receives the intermediate tensors of a forward pass, for all its tokens at once, under Hugging
// Face's module names: "embed", "per_layer_inputs" [tokens, layers, per_layer_dim], for each layer
// L "L.input_layernorm", "L.self_attn.{q_proj,k_proj,v_proj,q_norm,k_norm,v_norm,o_proj}" (norms
// before rope), "L.post_attention_layernorm", "L.pre_feedforward_layernorm", "L.mlp",
// "L.post_feedforward_layernorm", "L.per_layer_input_gate" (before GELU), "L.per_layer_projection",
// "L.post_per_layer_input_norm", "L.out" (after the layer's scalar), and "final_norm". Not HF's:
// "L.attention" (heads side by side, before o_proj), "L.router" (probabilities), "L.experts" (their
// sum, before its norm).
class Observer {
 public:
  virtual ~Observer() = default;
  // values: [tokens, values.size() / tokens], valid during the call.
  virtual void tensor(std::string_view name, std::span<const float> values) = 0;
};

// Tokens [position, position + tokens) of a prompt.
struct Image {
  uint32_t position = 0;
  uint32_t tokens = 0;
};

struct ForwardOptions {
  bool kv_f16 = false;          // round keys and values to halves, as an f16 KV cache does
  uint32_t first_position = 0;  // of the first token; nothing precedes it
  Observer* observer = nullptr;
  // Rows of width hidden that stand in for the tokens kSoftToken, in order (images, audio); not
  // scaled.
  std::span<const float> soft_rows = {};
  // Images whose tokens see each other both ways in sliding layers (Config::image_bidirectional).
  std::span<const Image> images = {};
  // Rows of logits to compute, ascending indices into tokens; empty means all.
  std::span<const uint32_t> logit_rows = {};
};

inline constexpr uint32_t kSoftToken = UINT32_MAX;

// A matrix [rows, width], row-major: decoded, or as it lies in a file and decoded row by row.
class Matrix {
 public:
  Matrix() = default;
  Matrix(size_t width, std::vector<float> values) : width_(width), values_(std::move(values)) {}
  // blocks: whole rows of a decodable type; must outlive the matrix.
  Matrix(size_t width, gguf::TensorType type, Bytes blocks);

  bool empty() const { return rows() == 0; }
  size_t width() const { return width_; }
  size_t rows() const {
    if (width_ == 0) return 0;
    return row_bytes_ > 0 ? blocks_.size() / row_bytes_ : values_.size() / width_;
  }
  // Row `index`: valid until `scratch` changes, which may hold it.
  std::span<const float> row(size_t index, std::vector<float>& scratch) const;

 private:
  size_t width_ = 0;
  std::vector<float> values_;
  gguf::TensorType type_{};
  Bytes blocks_;
  size_t row_bytes_ = 0;  // 0: decoded
};

// Weights of one layer, row-major [outputs, inputs] (experts: [experts, outputs, inputs]); empty
// where it has none.
struct LayerWeights {
  std::vector<float> attn_norm, attn_q_norm, attn_k_norm, post_attention_norm;
  Matrix attn_q, attn_k, attn_v, attn_output;
  std::vector<float> ffn_norm, post_ffw_norm;
  Matrix ffn_gate, ffn_up, ffn_down;
  Matrix inp_gate, proj;
  std::vector<float> post_norm;
  float output_scale = 1;
  Matrix router;
  std::vector<float> router_scale, experts_gate, experts_up, experts_down, experts_scale;
  std::vector<float> pre_ffw_norm_2, post_ffw_norm_1, post_ffw_norm_2;
};

// When matrices are decoded: at once, which is fast and takes 4 bytes a weight, or row by row each
// time they are used, which takes none; the numbers are the same. Experts are always decoded.
enum class Decoding : uint8_t { kAtLoad, kByRow };

class ReferenceModel {
 public:
  // Reads every tensor of the text model: a file with the header `header`, all of whose bytes are
  // `file` (which must outlive the model if it decodes by row). Errors of Config::from_gguf,
  // check_tensors and gguf::decode_block_row.
  static Result<ReferenceModel> load(const gguf::Header& header, Bytes file,
                                     Decoding decoding = Decoding::kAtLoad);

  // logits: [tokens.size(), vocab] (or logit_rows.size() rows), softcapped; suppressed tokens are
  // -infinity. kInvalidArgument: no tokens, an id outside the vocabulary, rows that do not match.
  Result<std::vector<float>> forward(std::span<const uint32_t> tokens,
                                     const ForwardOptions& options = {}) const;

  const model::Config& config() const { return config_; }

 private:
  friend class Pass;
  friend class TrainingPass;
  model::Config config_;
  Matrix token_embd_, output_, per_layer_token_embd_, per_layer_model_proj_;
  std::vector<float> output_norm_, rope_freqs_, per_layer_proj_norm_;
  std::vector<LayerWeights> layers_;
};

}  // namespace lapidary::reference
