#include "engine/adapter/adapter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/text.h"

namespace lapidary::adapter {
namespace {

using model::TensorRole;

// Position in LoraAdapter::modules.
std::pair<uint32_t, int> order(const LoraModule& module) {
  return {module.role == TensorRole::kOutput ? model::kMaxLayers : module.layer,
          static_cast<int>(module.role)};
}

std::unexpected<Error> invalid(const std::string& message) {
  return fail(ErrorCode::kInvalidFormat, cat("adapter: ", message));
}

bool finite(const std::vector<float>& values) {
  return std::ranges::all_of(values, [](float v) { return std::isfinite(v); });
}

Status check_alpha(float alpha, std::string_view where) {
  if (std::isfinite(alpha) && alpha > 0) return {};
  return invalid(cat(where, ": alpha ", alpha, " is not a positive number"));
}

Status check_rank(uint32_t rank, std::string_view where) {
  if (rank >= 1 && rank <= kMaxRank) return {};
  return invalid(cat(where, ": rank ", rank, " is not between 1 and ", kMaxRank));
}

Status check_module(const LoraModule& module) {
  if (!std::ranges::contains(kRoles, module.role)) {
    return fail(ErrorCode::kUnsupported, cat("adapter: ", module_name(module),
                                             " is not a matrix that an adapter can change"));
  }
  const bool layered = model::tensor_role_info(module.role).per_layer;
  if (module.layer >= (layered ? model::kMaxLayers : 1)) {
    return invalid(cat("layer ", module.layer, " is out of range"));
  }
  const std::string where = module_name(module);
  TRY_VOID(check_rank(module.rank, where));
  TRY_VOID(check_alpha(module.alpha, where));
  if (module.inputs == 0 || module.outputs == 0 ||
      module.a.size() != uint64_t{module.rank} * module.inputs ||
      module.b.size() != uint64_t{module.outputs} * module.rank) {
    return invalid(cat(where, ": A and B do not have the sizes of rank ", module.rank, ", ",
                       module.inputs, " inputs and ", module.outputs, " outputs"));
  }
  if (!finite(module.a) || !finite(module.b)) {
    return invalid(cat(where, " holds values that are not finite"));
  }
  return {};
}

Status check_fit(const LoraModule& module, const model::Config& base) {
  const std::string where = module_name(module);
  if (module.layer >= base.layers.size()) {
    return invalid(cat(where, ": the model has ", base.layers.size(), " layers"));
  }
  const auto layer = static_cast<int>(module.layer);
  if (model::tensor_need(base, module.role, layer) == model::TensorNeed::kNone) {
    const bool key_or_value =
        module.role == TensorRole::kAttnK || module.role == TensorRole::kAttnV;
    const model::LayerConfig& config = base.layers[module.layer];
    const std::string why =
        !key_or_value      ? "it has no per-layer embeddings"
        : config.shares_kv ? cat("layer ", layer, " shares K and V of layer ", config.kv_source)
                           : cat("layer ", layer, " takes V from K");
    return fail(ErrorCode::kUnsupported,
                cat("adapter: ", where, " is a matrix that this model does not use: ", why));
  }
  const model::TensorShape shape = model::expected_shape(base, module.role, layer);
  if (shape.dims[0] != module.inputs || shape.dims[1] != module.outputs) {
    return invalid(cat(where, " is made for [", module.inputs, ", ", module.outputs,
                       "], but the model's is ", to_string(shape),
                       ": the adapter is of another model"));
  }
  return {};
}

}  // namespace

double scale(const LoraAdapter& adapter, const LoraModule& module) {
  const double rank = module.rank;
  return double{module.alpha} / (adapter.rs_lora ? std::sqrt(rank) : rank);
}

std::string module_name(const LoraModule& module) {
  return model::tensor_name(module.role, static_cast<int>(module.layer));
}

Status check(const LoraAdapter& adapter) {
  if (adapter.modules.empty()) return invalid("it changes no matrix");
  TRY_VOID(check_rank(adapter.rank, "all modules"));
  TRY_VOID(check_alpha(adapter.alpha, "all modules"));
  for (size_t i = 0; i < adapter.modules.size(); ++i) {
    const LoraModule& module = adapter.modules[i];
    TRY_VOID(check_module(module));
    if (i == 0 || order(adapter.modules[i - 1]) < order(module)) continue;
    return invalid(cat(module_name(module), order(adapter.modules[i - 1]) == order(module)
                                                ? " is there twice"
                                                : " is out of order"));
  }
  return {};
}

Status check(const LoraAdapter& adapter, const model::Config& base) {
  TRY_VOID(check(adapter));
  for (const LoraModule& module : adapter.modules) TRY_VOID(check_fit(module, base));
  return {};
}

Status check_digest(const LoraAdapter& adapter, std::string_view digest) {
  if (adapter.base_digest.empty() || digest.empty() || adapter.base_digest == digest) return {};
  return fail(ErrorCode::kIntegrity,
              cat("the adapter was made for the base ", printable(adapter.base_digest, 128),
                  ", but this model's file is ", digest));
}

}  // namespace lapidary::adapter
