// The reference forward pass, one layer over all tokens at a time.
#include "engine/reference/model.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <string>

#include "engine/base/text.h"
#include "engine/gguf/codec.h"
#include "engine/model/tensor_table.h"
#include "engine/reference/ops.h"

namespace lapidary::reference {

using model::LayerConfig;
using model::TensorRole;

Matrix::Matrix(size_t width, gguf::TensorType type, Bytes blocks)
    : width_(width), type_(type), blocks_(blocks) {
  const Result<uint64_t> bytes = gguf::tensor_bytes(type, width);
  assert(bytes && *bytes > 0 && blocks.size() % *bytes == 0);
  row_bytes_ = static_cast<size_t>(*bytes);
}

std::span<const float> Matrix::row(size_t index, std::vector<float>& scratch) const {
  if (row_bytes_ == 0) return std::span(values_).subspan(index * width_, width_);
  scratch.resize(width_);
  [[maybe_unused]] const Status status =
      gguf::decode_block_row(type_, blocks_.subspan(index * row_bytes_, row_bytes_), scratch);
  assert(status);  // check_tensors lets only decodable types pass
  return scratch;
}

namespace {

// Reads tensors by role and decodes them.
class Loader {
 public:
  Loader(const model::Config& config, const gguf::Header& header, Bytes file, Decoding decoding)
      : config_(config), header_(header), file_(file), decoding_(decoding) {}

  // Leaves `out` empty if the model has no such tensor.
  Status read(TensorRole role, int layer, std::vector<float>& out) {
    TRY(const Found found, find(role, layer));
    if (found.elements == 0) return {};
    out.resize(found.elements);
    return gguf::decode_block_row(found.type, found.bytes, out);
  }
  Status read(TensorRole role, int layer, Matrix& out) {
    TRY(const Found found, find(role, layer));
    if (found.elements == 0) return {};
    if (decoding_ == Decoding::kByRow) {
      out = Matrix(found.width, found.type, found.bytes);
      return {};
    }
    std::vector<float> values(found.elements);
    TRY_VOID(gguf::decode_block_row(found.type, found.bytes, values));
    out = Matrix(found.width, std::move(values));
    return {};
  }

  // The two halves of the experts' input matrices, whichever way the file stores them.
  Status read_experts(int layer, LayerWeights& w) {
    std::vector<float> fused;
    TRY_VOID(read(TensorRole::kExpertsGateUp, layer, fused));
    if (fused.empty()) {
      TRY_VOID(read(TensorRole::kExpertsGate, layer, w.experts_gate));
      return read(TensorRole::kExpertsUp, layer, w.experts_up);
    }
    const size_t half = size_t{config_.experts.ffn} * config_.hidden;
    for (size_t e = 0; e < config_.experts.count; ++e) {
      const auto gate = fused.begin() + static_cast<ptrdiff_t>(2 * e * half);
      const auto up = gate + static_cast<ptrdiff_t>(half);
      w.experts_gate.insert(w.experts_gate.end(), gate, up);
      w.experts_up.insert(w.experts_up.end(), up, up + static_cast<ptrdiff_t>(half));
    }
    return {};
  }

  Status read_layer(int i, LayerWeights& w) {
    const std::pair<TensorRole, Matrix*> matrices[] = {
        {TensorRole::kAttnQ, &w.attn_q},     {TensorRole::kAttnK, &w.attn_k},
        {TensorRole::kAttnV, &w.attn_v},     {TensorRole::kAttnOutput, &w.attn_output},
        {TensorRole::kFfnGate, &w.ffn_gate}, {TensorRole::kFfnUp, &w.ffn_up},
        {TensorRole::kFfnDown, &w.ffn_down}, {TensorRole::kInpGate, &w.inp_gate},
        {TensorRole::kProj, &w.proj},        {TensorRole::kRouter, &w.router},
    };
    for (const auto& [role, out] : matrices) TRY_VOID(read(role, i, *out));
    const std::pair<TensorRole, std::vector<float>*> tensors[] = {
        {TensorRole::kAttnNorm, &w.attn_norm},
        {TensorRole::kAttnQNorm, &w.attn_q_norm},
        {TensorRole::kAttnKNorm, &w.attn_k_norm},
        {TensorRole::kPostAttentionNorm, &w.post_attention_norm},
        {TensorRole::kFfnNorm, &w.ffn_norm},
        {TensorRole::kPostFfwNorm, &w.post_ffw_norm},
        {TensorRole::kPostNorm, &w.post_norm},
        {TensorRole::kRouterScale, &w.router_scale},
        {TensorRole::kExpertsDown, &w.experts_down},
        {TensorRole::kExpertsDownScale, &w.experts_scale},
        {TensorRole::kPreFfwNorm2, &w.pre_ffw_norm_2},
        {TensorRole::kPostFfwNorm1, &w.post_ffw_norm_1},
        {TensorRole::kPostFfwNorm2, &w.post_ffw_norm_2},
    };
    for (const auto& [role, out] : tensors) TRY_VOID(read(role, i, *out));
    std::vector<float> scale;
    TRY_VOID(read(TensorRole::kLayerOutputScale, i, scale));
    w.output_scale = scale[0];
    return read_experts(i, w);
  }

 private:
  struct Found {
    gguf::TensorType type{};
    Bytes bytes;
    size_t elements = 0;  // 0: the model has no such tensor
    size_t width = 0;
  };
  Result<Found> find(TensorRole role, int layer) {
    if (model::tensor_need(config_, role, layer) == model::TensorNeed::kNone) return Found{};
    const gguf::TensorInfo* tensor = model::find_tensor(header_, role, layer);
    if (!tensor) return Found{};  // optional: check_tensors has seen to the others
    const model::TensorShape shape = model::expected_shape(config_, role, layer);
    uint64_t elements = 1;
    for (const uint64_t dim : shape.dims) elements *= dim;
    TRY(const uint64_t size, gguf::tensor_bytes(tensor->type, elements));
    if (tensor->offset > file_.size() || size > file_.size() - tensor->offset) {
      return fail(ErrorCode::kTruncated,
                  cat("tensor ", printable(tensor->name), " ends beyond the end of the file"));
    }
    const Bytes bytes =
        file_.subspan(static_cast<size_t>(tensor->offset), static_cast<size_t>(size));
    return Found{tensor->type, bytes, static_cast<size_t>(elements),
                 static_cast<size_t>(shape.dims[0])};
  }

  const model::Config& config_;
  const gguf::Header& header_;
  Bytes file_;
  Decoding decoding_;
};

}  // namespace

Result<ReferenceModel> ReferenceModel::load(const gguf::Header& header, Bytes file,
                                            Decoding decoding) {
  ReferenceModel m;
  TRY(m.config_, model::Config::from_gguf(header));
  TRY_VOID(model::check_tensors(m.config_, header));
  Loader loader(m.config_, header, file, decoding);
  TRY_VOID(loader.read(TensorRole::kTokenEmbd, 0, m.token_embd_));
  TRY_VOID(loader.read(TensorRole::kOutput, 0, m.output_));
  TRY_VOID(loader.read(TensorRole::kOutputNorm, 0, m.output_norm_));
  TRY_VOID(loader.read(TensorRole::kRopeFreqs, 0, m.rope_freqs_));
  TRY_VOID(loader.read(TensorRole::kPerLayerTokenEmbd, 0, m.per_layer_token_embd_));
  TRY_VOID(loader.read(TensorRole::kPerLayerModelProj, 0, m.per_layer_model_proj_));
  TRY_VOID(loader.read(TensorRole::kPerLayerProjNorm, 0, m.per_layer_proj_norm_));
  m.layers_.resize(m.config_.layers.size());
  for (size_t i = 0; i < m.layers_.size(); ++i) {
    TRY_VOID(loader.read_layer(static_cast<int>(i), m.layers_[i]));
  }
  return m;
}

// A tensor of one row a token.
struct Rows {
  size_t width = 0;
  std::vector<float> data;

  Rows() = default;
  Rows(size_t count, size_t row_width) : width(row_width), data(count * row_width) {}
  std::span<float> operator[](size_t t) { return std::span(data).subspan(t * width, width); }
  std::span<const float> operator[](size_t t) const {
    return std::span(data).subspan(t * width, width);
  }
};

// The state of one forward call.
class Pass {
 public:
  Pass(const ReferenceModel& m, std::span<const uint32_t> tokens, const ForwardOptions& options)
      : m_(m), config_(m.config_), options_(options), tokens_(tokens), count_(tokens.size()) {}

  std::vector<float> run() {
    embed();
    if (config_.per_layer_dim > 0) per_layer_inputs();
    caches_.resize(config_.layers.size());
    for (size_t i = 0; i < config_.layers.size(); ++i) layer(i);
    return head();
  }

 private:
  void show(std::string_view name, const Rows& rows) {
    if (options_.observer) options_.observer->tensor(name, rows.data);
  }
  void show(size_t layer, std::string_view name, const Rows& rows) {
    if (options_.observer) show(cat(layer, ".", name), rows);
  }

  // A row of weights at a time, for all tokens: it may have to be decoded.
  static Rows project(const Matrix& weight, const Rows& x) {
    assert(weight.width() == x.width);
    const size_t count = x.data.size() / x.width;
    Rows y(count, weight.rows());
    std::vector<float> scratch;
    for (size_t o = 0; o < y.width; ++o) {
      const std::span<const float> row = weight.row(o, scratch);
      for (size_t t = 0; t < count; ++t) y[t][o] = static_cast<float>(dot(row, x[t]));
    }
    return y;
  }
  // Normalises every run of `width` values on its own: a row, or a head.
  Rows norm(const Rows& x, std::span<const float> weight, size_t width) const {
    Rows y(count_, x.width);
    for (size_t i = 0; i < x.data.size(); i += width) {
      rms_norm(std::span(x.data).subspan(i, width), weight, config_.rms_eps,
               std::span(y.data).subspan(i, width));
    }
    return y;
  }
  Rows norm(const Rows& x, std::span<const float> weight) const { return norm(x, weight, x.width); }
  static void add(Rows& x, const Rows& y) {
    for (size_t i = 0; i < x.data.size(); ++i) x.data[i] += y.data[i];
  }

  // §4.1
  void embed() {
    x_ = Rows(count_, config_.hidden);
    const double scale = std::sqrt(double{static_cast<double>(config_.hidden)});
    size_t soft = 0;
    std::vector<float> scratch;
    for (size_t t = 0; t < count_; ++t) {
      const bool is_soft = tokens_[t] == kSoftToken;
      const std::span<const float> row =
          is_soft ? options_.soft_rows.subspan(soft++ * x_.width, x_.width)
                  : m_.token_embd_.row(tokens_[t], scratch);
      for (size_t i = 0; i < x_.width; ++i) {
        x_[t][i] = is_soft ? row[i] : static_cast<float>(double{row[i]} * scale);
      }
    }
    show("embed", x_);
  }

  // §4.2
  void per_layer_inputs() {
    const size_t dim = config_.per_layer_dim;
    const double token_scale = std::sqrt(static_cast<double>(dim));
    const double context_scale = 1 / std::sqrt(static_cast<double>(config_.hidden));
    Rows context = project(m_.per_layer_model_proj_, x_);
    for (float& v : context.data) v = static_cast<float>(double{v} * context_scale);
    per_layer_ = norm(context, m_.per_layer_proj_norm_, dim);
    std::vector<float> scratch;
    for (size_t t = 0; t < count_; ++t) {
      const uint32_t id = tokens_[t] == kSoftToken ? 0 : tokens_[t];  // 0 is <pad>
      const std::span<const float> token = m_.per_layer_token_embd_.row(id, scratch);
      for (size_t i = 0; i < per_layer_.width; ++i) {
        const double sum = double{per_layer_[t][i]} + double{token[i]} * token_scale;
        per_layer_[t][i] = static_cast<float>(sum / std::sqrt(2.0));
      }
    }
    show("per_layer_inputs", per_layer_);
  }

  // §4.3
  void layer(size_t i) {
    const LayerWeights& w = m_.layers_[i];
    const Rows o = attend(i);
    const Rows projected = project(w.attn_output, o);
    show(i, "self_attn.o_proj", projected);
    const Rows attention_out = norm(projected, w.post_attention_norm);
    show(i, "post_attention_layernorm", attention_out);
    add(x_, attention_out);

    const Rows n = norm(x_, w.ffn_norm);
    show(i, "pre_feedforward_layernorm", n);
    Rows y = gated(n, w.ffn_gate, w.ffn_up, w.ffn_down);
    show(i, "mlp", y);
    if (config_.experts.count > 0) {
      y = norm(y, w.post_ffw_norm_1);
      add(y, norm(experts(i), w.post_ffw_norm_2));
    }
    const Rows ffn_out = norm(y, w.post_ffw_norm);
    show(i, "post_feedforward_layernorm", ffn_out);
    add(x_, ffn_out);

    if (config_.per_layer_dim > 0) add_per_layer(i);
    for (float& v : x_.data) v *= w.output_scale;
    show(i, "out", x_);
  }

  Rows attend(size_t i) {
    const LayerWeights& w = m_.layers_[i];
    const LayerConfig& layer = config_.layers[i];
    const Rows h = norm(x_, w.attn_norm);
    show(i, "input_layernorm", h);
    const Rows q_raw = project(w.attn_q, h);
    show(i, "self_attn.q_proj", q_raw);
    Rows q = norm(q_raw, w.attn_q_norm, layer.head_dim);
    show(i, "self_attn.q_norm", q);
    rotate(layer, q);
    if (!layer.shares_kv) fill_cache(i, h);

    const Cache& cache = caches_[layer.kv_source];
    const AttentionShape shape{config_.heads, layer.kv_heads, layer.head_dim,
                               layer.sliding ? config_.window : 0};
    Rows o(count_, q.width);
    for (size_t t = 0; t < count_; ++t) {
      attention(shape, q[t], cache.k.data, cache.v.data, static_cast<uint32_t>(t),
                layer.sliding ? last_visible(t) : static_cast<uint32_t>(t), o[t]);
    }
    show(i, "attention", o);
    return o;
  }

  void fill_cache(size_t i, const Rows& h) {
    const LayerWeights& w = m_.layers_[i];
    const LayerConfig& layer = config_.layers[i];
    Cache& cache = caches_[i];
    const Rows k = project(w.attn_k, h);
    show(i, "self_attn.k_proj", k);
    if (layer.v_from_k) {
      cache.v = norm(k, {}, layer.head_dim);
    } else {
      const Rows v = project(w.attn_v, h);
      show(i, "self_attn.v_proj", v);
      cache.v = norm(v, {}, layer.head_dim);
    }
    show(i, "self_attn.v_norm", cache.v);
    cache.k = norm(k, w.attn_k_norm, layer.head_dim);
    show(i, "self_attn.k_norm", cache.k);
    rotate(layer, cache.k);
    if (options_.kv_f16) {
      round_to_half(cache.k.data);
      round_to_half(cache.v.data);
    }
  }

  void rotate(const LayerConfig& layer, Rows& heads) const {
    const std::span<const float> factors =
        layer.sliding ? std::span<const float>() : m_.rope_freqs_;
    for (size_t t = 0; t < count_; ++t) {
      for (size_t d = 0; d < heads.width; d += layer.head_dim) {
        rope(heads[t].subspan(d, layer.head_dim),
             options_.first_position + static_cast<uint32_t>(t), config_.rope(layer).theta,
             factors);
      }
    }
  }

  // §4.5: inside an image block, the block's last token; else the token itself.
  uint32_t last_visible(size_t t) const {
    for (const Image& image : options_.images) {
      if (t >= image.position && t - image.position < image.tokens)
        return image.position + image.tokens - 1;
    }
    return static_cast<uint32_t>(t);
  }

  // down · (gelu(gate · x) * (up · x))
  static Rows gated(const Rows& x, const Matrix& gate, const Matrix& up, const Matrix& down) {
    Rows g = project(gate, x);
    const Rows u = project(up, x);
    for (size_t i = 0; i < g.data.size(); ++i) g.data[i] = gelu(g.data[i]) * u.data[i];
    return project(down, g);
  }

  // §4.4; from the same x_ as the dense network.
  Rows experts(size_t i) {
    const LayerWeights& w = m_.layers_[i];
    const size_t hidden = config_.hidden;
    const size_t ffn = config_.experts.ffn;
    Rows r = norm(x_, {});
    const double scale = 1 / std::sqrt(static_cast<double>(hidden));
    for (size_t t = 0; t < count_; ++t) {
      for (size_t d = 0; d < hidden; ++d) {
        r[t][d] = static_cast<float>(double{r[t][d]} * scale * double{w.router_scale[d]});
      }
    }
    Rows p = project(w.router, r);
    for (size_t t = 0; t < count_; ++t) softmax(p[t]);
    show(i, "router", p);

    const Rows n = norm(x_, w.pre_ffw_norm_2);
    Rows z(count_, hidden);
    std::vector<float> gate(ffn), up(ffn), y(hidden);
    for (size_t t = 0; t < count_; ++t) {
      const std::vector<Candidate> best = top_k(p[t], config_.experts.used);
      double sum = 0;
      for (const Candidate& c : best) sum += double{c.value};
      for (const Candidate& c : best) {
        const size_t at = c.id * ffn * hidden;
        matvec(std::span(w.experts_gate).subspan(at, ffn * hidden), n[t], gate);
        matvec(std::span(w.experts_up).subspan(at, ffn * hidden), n[t], up);
        for (size_t d = 0; d < ffn; ++d) gate[d] = gelu(gate[d]) * up[d];
        matvec(std::span(w.experts_down).subspan(at, ffn * hidden), gate, y);
        const double weight = double{c.value} / sum * double{w.experts_scale[c.id]};
        for (size_t d = 0; d < hidden; ++d) z[t][d] += static_cast<float>(weight * double{y[d]});
      }
    }
    show(i, "experts", z);
    return z;
  }

  void add_per_layer(size_t i) {
    const LayerWeights& w = m_.layers_[i];
    Rows g = project(w.inp_gate, x_);
    show(i, "per_layer_input_gate", g);
    for (size_t t = 0; t < count_; ++t) {
      const auto input = per_layer_[t].subspan(i * g.width, g.width);
      for (size_t d = 0; d < g.width; ++d) g[t][d] = gelu(g[t][d]) * input[d];
    }
    const Rows projected = project(w.proj, g);
    show(i, "per_layer_projection", projected);
    const Rows y = norm(projected, w.post_norm);
    show(i, "post_per_layer_input_norm", y);
    add(x_, y);
  }

  // §4.6
  std::vector<float> head() {
    const Rows h = norm(x_, m_.output_norm_);
    show("final_norm", h);
    const size_t rows = options_.logit_rows.empty() ? count_ : options_.logit_rows.size();
    Rows wanted(rows, h.width);
    for (size_t r = 0; r < rows; ++r) {
      const size_t t = options_.logit_rows.empty() ? r : options_.logit_rows[r];
      std::ranges::copy(h[t], wanted[r].begin());
    }
    Rows logits = project(m_.output_.empty() ? m_.token_embd_ : m_.output_, wanted);
    for (size_t r = 0; r < rows; ++r) {
      softcap(logits[r], config_.softcap);
      for (const uint32_t id : config_.suppress_tokens)
        logits[r][id] = -std::numeric_limits<float>::infinity();
    }
    return std::move(logits.data);
  }

  struct Cache {
    Rows k, v;
  };

  const ReferenceModel& m_;
  const model::Config& config_;
  const ForwardOptions& options_;
  std::span<const uint32_t> tokens_;
  size_t count_;
  Rows x_;          // the residual stream
  Rows per_layer_;  // [tokens, layers * per_layer_dim]
  std::vector<Cache> caches_;
};

Result<std::vector<float>> ReferenceModel::forward(std::span<const uint32_t> tokens,
                                                   const ForwardOptions& options) const {
  if (tokens.empty())
    return fail(ErrorCode::kInvalidArgument, "a forward pass needs at least one token");
  size_t soft = 0;
  for (const uint32_t id : tokens) {
    if (id == kSoftToken) {
      ++soft;
    } else if (id >= config_.vocab) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("token ", id, " is outside the vocabulary of ", config_.vocab));
    }
  }
  if (options.soft_rows.size() != soft * config_.hidden) {
    return fail(ErrorCode::kInvalidArgument,
                cat(soft, " soft tokens need as many rows of ", config_.hidden));
  }
  for (const Image& image : options.images) {
    if (image.position > tokens.size() || image.tokens > tokens.size() - image.position)
      return fail(ErrorCode::kInvalidArgument, "an image ends beyond the last token");
  }
  for (const uint32_t row : options.logit_rows) {
    if (row >= tokens.size())
      return fail(ErrorCode::kInvalidArgument, cat("there is no token ", row));
  }
  return Pass(*this, tokens, options).run();
}

}  // namespace lapidary::reference
