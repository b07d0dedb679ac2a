// The one table of the tensors of a Gemma 4 text model: for each role its name, its shape as a
// function of the Config, and whether a layer needs it. Loaders, checks and the reference model all
// read this table.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/error.h"
#include "engine/gguf/header.h"
#include "engine/model/config.h"

namespace lapidary::model {

enum class TensorRole : uint8_t {
  // The whole model's.
  kTokenEmbd,
  kOutput,  // a head of its own; absent when tied to kTokenEmbd, as in every published model
  kOutputNorm,
  kRopeFreqs,
  kPerLayerTokenEmbd,
  kPerLayerModelProj,
  kPerLayerProjNorm,
  // A layer's.
  kAttnNorm,
  kAttnQ,
  kAttnK,
  kAttnV,
  kAttnQNorm,
  kAttnKNorm,
  kAttnOutput,
  kPostAttentionNorm,
  kFfnNorm,
  kFfnGate,
  kFfnUp,
  kFfnDown,
  kPostFfwNorm,
  kInpGate,  // per-layer embedding: gate, projection, norm
  kProj,
  kPostNorm,
  kLayerOutputScale,
  // A layer's, in a mixture of experts.
  kRouter,
  kRouterScale,
  kExpertsGateUp,  // gate rows, then up rows, expert by expert
  kExpertsGate,    // the split form of older files, instead of kExpertsGateUp
  kExpertsUp,
  kExpertsDown,
  kExpertsDownScale,
  kPreFfwNorm2,
  kPostFfwNorm1,
  kPostFfwNorm2,
};
inline constexpr int kTensorRoles = static_cast<int>(TensorRole::kPostFfwNorm2) + 1;

struct TensorRoleInfo {
  TensorRole role;
  std::string_view name;         // '%' stands for the layer
  std::string_view alternative;  // another name in use for it, or empty
  bool per_layer;
  bool vector;  // norms, scales, factors: F32, F16 or BF16, small, never block-quantised
};
const TensorRoleInfo& tensor_role_info(TensorRole role);

// "blk.3.attn_q.weight". The layer is ignored for roles of the whole model.
std::string tensor_name(TensorRole role, int layer = 0);

// GGUF order, the contiguous dimension first: a matrix is [inputs, outputs], experts a third
// dimension.
struct TensorShape {
  std::array<uint64_t, 4> dims = {1, 1, 1, 1};
  int rank = 1;
  bool operator==(const TensorShape&) const = default;
};
std::string to_string(const TensorShape& shape);  // "[256, 512]"
TensorShape expected_shape(const Config& config, TensorRole role, int layer = 0);

enum class TensorNeed : uint8_t {
  kNone,      // no role in this model or layer; a file may hold it all the same (K/V of layers that
              // share)
  kOptional,  // used if it is there
  kRequired,
};
TensorNeed tensor_need(const Config& config, TensorRole role, int layer = 0);

// The tensor that plays `role`, under its name or its alternative; nullptr if the file has neither.
const gguf::TensorInfo* find_tensor(const gguf::Header& header, TensorRole role, int layer = 0);

// Every needed tensor is there, with the expected shape and a type that gguf/codec.h can decode;
// experts come fused or split. Tensors of no role (vision, audio, leftovers) are tolerated.
// kNotFound: missing; kInvalidFormat: wrong shape; kUnsupported: type. The message names the
// tensor, what was expected and what was found.
Status check_tensors(const Config& config, const gguf::Header& header);

}  // namespace lapidary::model
