// The tensor table: gemma4.md §3.1 as data.
#include "engine/model/tensor_table.h"

#include "engine/base/text.h"

namespace lapidary::model {
namespace {

using enum TensorRole;

constexpr TensorRoleInfo kTable[] = {
    {kTokenEmbd, "token_embd.weight", "", false, false},
    {kOutput, "output.weight", "", false, false},
    {kOutputNorm, "output_norm.weight", "", false, true},
    {kRopeFreqs, "rope_freqs.weight", "", false, true},
    {kPerLayerTokenEmbd, "per_layer_token_embd.weight", "", false, false},
    {kPerLayerModelProj, "per_layer_model_proj.weight", "", false, false},
    {kPerLayerProjNorm, "per_layer_proj_norm.weight", "", false, true},
    {kAttnNorm, "blk.%.attn_norm.weight", "", true, true},
    {kAttnQ, "blk.%.attn_q.weight", "", true, false},
    {kAttnK, "blk.%.attn_k.weight", "", true, false},
    {kAttnV, "blk.%.attn_v.weight", "", true, false},
    {kAttnQNorm, "blk.%.attn_q_norm.weight", "", true, true},
    {kAttnKNorm, "blk.%.attn_k_norm.weight", "", true, true},
    {kAttnOutput, "blk.%.attn_output.weight", "", true, false},
    {kPostAttentionNorm, "blk.%.post_attention_norm.weight", "", true, true},
    {kFfnNorm, "blk.%.ffn_norm.weight", "", true, true},
    {kFfnGate, "blk.%.ffn_gate.weight", "", true, false},
    {kFfnUp, "blk.%.ffn_up.weight", "", true, false},
    {kFfnDown, "blk.%.ffn_down.weight", "", true, false},
    {kPostFfwNorm, "blk.%.post_ffw_norm.weight", "", true, true},
    {kInpGate, "blk.%.inp_gate.weight", "", true, false},
    {kProj, "blk.%.proj.weight", "", true, false},
    {kPostNorm, "blk.%.post_norm.weight", "", true, true},
    {kLayerOutputScale, "blk.%.layer_output_scale.weight", "", true, true},
    {kRouter, "blk.%.ffn_gate_inp.weight", "", true, false},
    {kRouterScale, "blk.%.ffn_gate_inp.scale", "", true, true},
    {kExpertsGateUp, "blk.%.ffn_gate_up_exps.weight", "", true, false},
    {kExpertsGate, "blk.%.ffn_gate_exps.weight", "", true, false},
    {kExpertsUp, "blk.%.ffn_up_exps.weight", "", true, false},
    {kExpertsDown, "blk.%.ffn_down_exps.weight", "", true, false},
    {kExpertsDownScale, "blk.%.ffn_down_exps.scale", "blk.%.ffn_gate_inp.per_expert_scale", true,
     true},
    {kPreFfwNorm2, "blk.%.pre_ffw_norm_2.weight", "", true, true},
    {kPostFfwNorm1, "blk.%.post_ffw_norm_1.weight", "", true, true},
    {kPostFfwNorm2, "blk.%.post_ffw_norm_2.weight", "", true, true},
};

constexpr bool in_enum_order() {
  for (int i = 0; i < kTensorRoles; ++i) {
    if (static_cast<int>(kTable[i].role) != i) return false;
  }
  return std::size(kTable) == kTensorRoles;
}
static_assert(in_enum_order());

std::string fill(std::string_view pattern, int layer) {
  const size_t at = pattern.find('%');
  if (at == std::string_view::npos) return std::string(pattern);
  return cat(pattern.substr(0, at), layer, pattern.substr(at + 1));
}

TensorShape shape(uint64_t a) { return {{a, 1, 1, 1}, 1}; }
TensorShape shape(uint64_t a, uint64_t b) { return {{a, b, 1, 1}, 2}; }
TensorShape shape(uint64_t a, uint64_t b, uint64_t c) { return {{a, b, c, 1}, 3}; }

TensorShape found_shape(const gguf::TensorInfo& tensor) {
  TensorShape found;
  found.rank = static_cast<int>(tensor.n_dims);
  found.dims = tensor.dims;
  return found;
}

Status check_tensor(const Config& config, const gguf::TensorInfo& tensor, TensorRole role,
                    int layer) {
  const TensorShape expected = expected_shape(config, role, layer);
  const TensorShape found = found_shape(tensor);
  if (found.dims != expected.dims) {  // [n, 1] is as good as [n]
    return fail(ErrorCode::kInvalidFormat,
                cat("tensor ", printable(tensor.name), " has shape ", to_string(found),
                    ", but the model's metadata ask for ", to_string(expected),
                    ": the file is damaged or of another model"));
  }
  const bool plain = tensor.type == gguf::TensorType::kF32 ||
                     tensor.type == gguf::TensorType::kF16 ||
                     tensor.type == gguf::TensorType::kBF16;
  if (tensor_role_info(role).vector ? !plain : !gguf::tensor_type_info(tensor.type).decodable) {
    return fail(
        ErrorCode::kUnsupported,
        cat("tensor ", printable(tensor.name), " ", to_string(found), " is of type ",
            gguf::tensor_type_info(tensor.type).name, ", expected ",
            tensor_role_info(role).vector
                ? "F32, F16 or BF16"
                : "one of F32, F16, BF16, Q4_0 … Q8_0, Q2_K … Q6_K, IQ4_NL, IQ4_XS, MXFP4"));
  }
  return {};
}

Status check_role(const Config& config, const gguf::Header& header, TensorRole role, int layer) {
  const TensorNeed need = tensor_need(config, role, layer);
  if (need == TensorNeed::kNone) return {};
  const gguf::TensorInfo* tensor = find_tensor(header, role, layer);
  if (tensor) return check_tensor(config, *tensor, role, layer);
  if (need == TensorNeed::kOptional) return {};
  return fail(
      ErrorCode::kNotFound,
      cat("tensor ", tensor_name(role, layer), " ", to_string(expected_shape(config, role, layer)),
          " is missing: the file is incomplete, or not a whole Gemma 4 model"));
}

// Gate and up projections of the experts: one fused tensor, or both split ones.
Status check_experts(const gguf::Header& header, int layer) {
  if (find_tensor(header, kExpertsGateUp, layer)) return {};
  for (const TensorRole role : {kExpertsGate, kExpertsUp}) {
    if (!find_tensor(header, role, layer)) {
      return fail(ErrorCode::kNotFound,
                  cat("tensor ", tensor_name(kExpertsGateUp, layer), " is missing, and so is ",
                      tensor_name(role, layer), " of its split form: the file is incomplete"));
    }
  }
  return {};
}

}  // namespace

const TensorRoleInfo& tensor_role_info(TensorRole role) { return kTable[static_cast<int>(role)]; }

std::string tensor_name(TensorRole role, int layer) {
  return fill(tensor_role_info(role).name, layer);
}

std::string to_string(const TensorShape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank; ++i) {
    if (i > 0) text += ", ";
    text += cat(shape.dims[static_cast<size_t>(i)]);
  }
  return text + "]";
}

TensorShape expected_shape(const Config& config, TensorRole role, int index) {
  const uint64_t hidden = config.hidden;
  const uint64_t per_layer = config.per_layer_dim;
  const uint64_t all_layers = per_layer * config.layers.size();
  const uint64_t experts = config.experts.count;
  const uint64_t expert_ffn = config.experts.ffn;
  switch (role) {
    case kTokenEmbd:
    case kOutput:
      return shape(hidden, config.vocab);
    case kRopeFreqs:
      return shape(config.rope_global.dims / 2);
    case kPerLayerTokenEmbd:
      return shape(all_layers, config.vocab);
    case kPerLayerModelProj:
      return shape(hidden, all_layers);
    case kPerLayerProjNorm:
      return shape(per_layer);
    default:
      break;
  }
  if (!tensor_role_info(role).per_layer) return shape(hidden);
  const LayerConfig& layer = config.layers[static_cast<size_t>(index)];
  switch (role) {
    case kAttnQ:
      return shape(hidden, config.q_width(layer));
    case kAttnK:
    case kAttnV:
      return shape(hidden, layer.kv_width());
    case kAttnQNorm:
    case kAttnKNorm:
      return shape(layer.head_dim);
    case kAttnOutput:
      return shape(config.q_width(layer), hidden);
    case kFfnGate:
    case kFfnUp:
      return shape(hidden, layer.ffn);
    case kFfnDown:
      return shape(layer.ffn, hidden);
    case kInpGate:
      return shape(hidden, per_layer);
    case kProj:
      return shape(per_layer, hidden);
    case kLayerOutputScale:
      return shape(1);
    case kRouter:
      return shape(hidden, experts);
    case kExpertsGateUp:
      return shape(hidden, 2 * expert_ffn, experts);
    case kExpertsGate:
    case kExpertsUp:
      return shape(hidden, expert_ffn, experts);
    case kExpertsDown:
      return shape(expert_ffn, hidden, experts);
    case kExpertsDownScale:
      return shape(experts);
    default:  // norms and the router's scale: one factor a channel of the residual stream
      return shape(hidden);
  }
}

TensorNeed tensor_need(const Config& config, TensorRole role, int index) {
  const auto required_if = [](bool condition) {
    return condition ? TensorNeed::kRequired : TensorNeed::kNone;
  };
  switch (role) {
    case kOutput:
      return TensorNeed::kOptional;
    case kRopeFreqs:
      for (const LayerConfig& layer : config.layers) {
        if (!layer.sliding) return TensorNeed::kRequired;
      }
      return TensorNeed::kNone;
    case kPerLayerTokenEmbd:
    case kPerLayerModelProj:
    case kPerLayerProjNorm:
    case kInpGate:
    case kProj:
    case kPostNorm:
      return required_if(config.per_layer_dim > 0);
    case kAttnK:
    case kAttnKNorm:
      return required_if(!config.layers[static_cast<size_t>(index)].shares_kv);
    case kAttnV: {
      const LayerConfig& layer = config.layers[static_cast<size_t>(index)];
      return required_if(!layer.shares_kv && !layer.v_from_k);
    }
    case kExpertsGateUp:
    case kExpertsGate:
    case kExpertsUp:
      return config.experts.count > 0 ? TensorNeed::kOptional : TensorNeed::kNone;
    case kRouter:
    case kRouterScale:
    case kExpertsDown:
    case kExpertsDownScale:
    case kPreFfwNorm2:
    case kPostFfwNorm1:
    case kPostFfwNorm2:
      return required_if(config.experts.count > 0);
    default:
      return TensorNeed::kRequired;
  }
}

const gguf::TensorInfo* find_tensor(const gguf::Header& header, TensorRole role, int layer) {
  const TensorRoleInfo& info = tensor_role_info(role);
  if (const gguf::TensorInfo* tensor = header.tensor(fill(info.name, layer))) return tensor;
  return info.alternative.empty() ? nullptr : header.tensor(fill(info.alternative, layer));
}

Status check_tensors(const Config& config, const gguf::Header& header) {
  for (const TensorRoleInfo& info : kTable) {
    if (!info.per_layer) TRY_VOID(check_role(config, header, info.role, 0));
  }
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    for (const TensorRoleInfo& info : kTable) {
      if (info.per_layer) TRY_VOID(check_role(config, header, info.role, layer));
    }
    if (config.experts.count > 0) TRY_VOID(check_experts(header, layer));
  }
  return {};
}

}  // namespace lapidary::model
