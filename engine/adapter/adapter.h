// A LoRA adapter in memory: for some of a model's matrices W two thin ones, applied as
// y = W x + scale · B (A x). Files become this and this becomes files (peft.h, gguf_lora.h,
// rullama.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/model/tensor_table.h"

namespace lapidary::adapter {

inline constexpr uint32_t kMaxRank = 1024;

// The matrices that an adapter can change; a layer's, but for the output head.
inline constexpr model::TensorRole kRoles[] = {
    model::TensorRole::kAttnQ,      model::TensorRole::kAttnK,   model::TensorRole::kAttnV,
    model::TensorRole::kAttnOutput, model::TensorRole::kFfnGate, model::TensorRole::kFfnUp,
    model::TensorRole::kFfnDown,    model::TensorRole::kInpGate, model::TensorRole::kProj,
    model::TensorRole::kOutput,
};

struct LoraModule {
  uint32_t layer = 0;  // 0 for the output head
  model::TensorRole role = model::TensorRole::kAttnQ;
  uint32_t rank = 0;
  float alpha = 0;
  uint32_t inputs = 0, outputs = 0;
  std::vector<float> a;  // [rank, inputs], row-major
  std::vector<float> b;  // [outputs, rank], row-major

  bool operator==(const LoraModule&) const = default;
};

struct LoraAdapter {
  std::string name;
  std::string base_model;   // its name, as the adapter's maker wrote it
  std::string base_digest;  // "sha256:…" of the base's file; empty: unknown
  // The usual rank and alpha; a module may have others.
  uint32_t rank = 0;
  float alpha = 0;
  bool rs_lora = false;             // the scale is alpha / sqrt(rank) instead of alpha / rank
  std::vector<LoraModule> modules;  // by layer, then role, the output head last

  bool operator==(const LoraAdapter&) const = default;
};

// What B (A x) is multiplied by.
double scale(const LoraAdapter& adapter, const LoraModule& module);

// "blk.3.attn_q.weight": the base's tensor, which names the module in messages.
std::string module_name(const LoraModule& module);

// Is the adapter sound in itself: ranks 1 to kMaxRank, alphas finite and positive, matrices of
// their sizes and finite, modules of kRoles, in order and none twice. kInvalidFormat otherwise.
Status check(const LoraAdapter& adapter);

// The same, and does it fit the base: each module's matrix exists there, in its shape.
// kInvalidFormat for a wrong shape or layer; kUnsupported for a matrix that the base does not use,
// such as K and V of a layer that shares another's.
Status check(const LoraAdapter& adapter, const model::Config& base);

// kIntegrity: the adapter names another base file than the one of this digest; empty: unknown.
Status check_digest(const LoraAdapter& adapter, std::string_view digest);

}  // namespace lapidary::adapter
