#include "engine/model/vision_config.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/model/config.h"
#include "engine/vision/image_size.h"

namespace lapidary::model {
namespace {

constexpr uint32_t kMaxPositions = 1 << 16;
constexpr uint32_t kMaxVisionFfn = 65'536;

Result<uint32_t> bounded(const gguf::Header& header, const std::string& key, uint32_t low,
                         uint32_t high) {
  TRY(const uint32_t value, header.get_u32(key));
  if (value >= low && value <= high) return value;
  return fail(ErrorCode::kInvalidFormat,
              cat(key, " is ", value, ", expected ", low, " to ", high, ": the file is damaged"));
}

class TensorCheck {
 public:
  explicit TensorCheck(const gguf::Header& header) : header_(header) {}

  // A tensor of these dimensions. matrix: of a type that kernels decode, else of plain floats.
  Status has(const std::string& name, std::array<uint64_t, 4> dims, bool matrix) const {
    const gguf::TensorInfo* tensor = header_.tensor(name);
    if (tensor == nullptr) {
      return fail(ErrorCode::kNotFound,
                  cat("tensor ", name, " is missing: the vision tower is incomplete"));
    }
    if (tensor->dims != dims) {
      return fail(ErrorCode::kInvalidFormat,
                  cat("tensor ", name,
                      " has not the shape that the metadata ask for: the file is "
                      "damaged or of another model"));
    }
    const bool plain = tensor->type == gguf::TensorType::kF32 ||
                       tensor->type == gguf::TensorType::kF16 ||
                       tensor->type == gguf::TensorType::kBF16;
    if (plain || (matrix && gguf::tensor_type_info(tensor->type).decodable)) return {};
    return fail(ErrorCode::kUnsupported,
                cat("tensor ", name, " is of type ", gguf::tensor_type_info(tensor->type).name,
                    ", which the vision tower cannot read"));
  }
  Status vector(const std::string& name, uint64_t size) const {
    return has(name, {size, 1, 1, 1}, false);
  }

 private:
  const gguf::Header& header_;
};

Status check_positions(const gguf::Header& header, const TensorCheck& check, VisionConfig& config) {
  const gguf::TensorInfo* positions = header.tensor("v.position_embd.weight");
  if (positions == nullptr)
    return fail(ErrorCode::kNotFound, "tensor v.position_embd.weight is missing");
  config.positions = static_cast<uint32_t>(std::min<uint64_t>(positions->dims[1], kMaxPositions));
  return check.has("v.position_embd.weight", {config.hidden, config.positions, 2, 1}, false);
}

Status check_tensors(const gguf::Header& header, VisionConfig& config) {
  const TensorCheck check(header);
  const uint64_t hidden = config.hidden;
  const uint64_t ffn = config.ffn;
  TRY_VOID(check.has("v.patch_embd.weight", {vision::kPatch, vision::kPatch, 3, hidden}, false));
  TRY_VOID(check_positions(header, check, config));
  for (uint32_t l = 0; l < config.layers; ++l) {
    for (const std::string_view norm : {"ln1", "ln2", "attn_post_norm", "ffn_post_norm"})
      TRY_VOID(check.vector(vision_tensor_name(l, norm), hidden));
    for (const std::string_view norm : {"attn_q_norm", "attn_k_norm"})
      TRY_VOID(check.vector(vision_tensor_name(l, norm), config.head_dim()));
    for (const std::string_view linear : kVisionLinears) {
      const bool down = linear == "ffn_down";
      const bool up = linear == "ffn_gate" || linear == "ffn_up";
      TRY_VOID(check.has(vision_tensor_name(l, linear),
                         {down ? ffn : hidden, up ? ffn : hidden, 1, 1}, true));
    }
  }
  config.standardises = header.tensor("v.std_scale") != nullptr;
  if (config.standardises) {
    TRY_VOID(check.vector("v.std_scale", hidden));
    TRY_VOID(check.vector("v.std_bias", hidden));
  }
  return check.has("mm.input_projection.weight", {hidden, config.output, 1, 1}, true);
}

// The embedding of patches without a tower: its keys for layers, heads and the like are 0.
Result<std::optional<VisionConfig>> embedder_config(const gguf::Header& header,
                                                    uint32_t text_hidden) {
  VisionConfig config;
  config.output = text_hidden;
  TRY(config.hidden, bounded(header, "clip.vision.embedding_length", 4, kMaxHidden));
  const TensorCheck check(header);
  const uint64_t hidden = config.hidden;
  TRY_VOID(check.has("v.patch_embd.weight", {kEmbedderValues, hidden, 1, 1}, true));
  TRY_VOID(check.vector("v.patch_embd.bias", hidden));
  for (size_t i = 0; i < kPatchNorms.size(); ++i) {
    for (const std::string_view part : {".weight", ".bias"})
      TRY_VOID(check.vector(cat(kPatchNorms[i], part), i == 0 ? kEmbedderValues : hidden));
  }
  TRY_VOID(check_positions(header, check, config));
  TRY_VOID(check.has("mm.input_projection.weight", {hidden, config.output, 1, 1}, true));
  return config;
}

}  // namespace

std::string vision_tensor_name(uint32_t layer, std::string_view name, std::string_view suffix) {
  return cat("v.blk.", layer, ".", name, suffix);
}

Result<std::optional<VisionConfig>> VisionConfig::from_gguf(const gguf::Header& header,
                                                            uint32_t text_hidden) {
  TRY(const bool projector, header.get_bool("clip.has_vision_encoder", false));
  const std::string prefix = projector ? "clip.vision." : "gemma4.vision.";
  if (projector) {
    TRY(const std::string_view type, header.get_string("clip.vision.projector_type", "gemma4v"));
    if (type == "gemma4uv") return embedder_config(header, text_hidden);
    if (type != "gemma4v") {
      return fail(ErrorCode::kUnsupported,
                  cat("a vision encoder of type \"", printable(type),
                      "\" is not supported: \"gemma4v\" and \"gemma4uv\" are"));
    }
  } else if (header.find(prefix + "block_count") == nullptr) {
    return std::nullopt;
  }
  VisionConfig config;
  config.output = text_hidden;
  TRY(config.layers, bounded(header, prefix + "block_count", 1, kMaxLayers));
  TRY(config.hidden, bounded(header, prefix + "embedding_length", 4, kMaxHidden));
  TRY(config.ffn, bounded(header, prefix + "feed_forward_length", 4, kMaxVisionFfn));
  TRY(config.heads, bounded(header, prefix + "attention.head_count", 1, kMaxHeads));
  if (config.hidden % (4 * config.heads) != 0 || config.head_dim() > kMaxHeadDim) {
    return fail(ErrorCode::kInvalidFormat,
                cat("a vision tower of width ", config.hidden, " cannot have ", config.heads,
                    " heads: a head's width is a multiple of 4, at most ", kMaxHeadDim));
  }
  TRY(const uint32_t patch, header.get_u32(prefix + "patch_size", vision::kPatch));
  if (patch != vision::kPatch) {
    return fail(ErrorCode::kUnsupported,
                cat("a vision tower with patches of ", patch, " pixels is not supported: 16 are"));
  }
  TRY(const double eps, header.get_float(prefix + "attention.layer_norm_epsilon", 1e-6));
  if (!(eps >= 0 && eps <= 0.1))
    return fail(ErrorCode::kInvalidFormat, "the vision tower's epsilon is out of its bounds");
  config.rms_eps = static_cast<float>(eps);
  // Files that say nothing mean what the model was trained with (gemma4.md §15).
  TRY(const bool gelu, header.get_bool("clip.use_gelu", true));
  config.quick_gelu = !gelu;
  TRY_VOID(check_tensors(header, config));
  return config;
}

VisionTensors::VisionTensors(const gguf::Header& header) {
  for (const gguf::TensorInfo& tensor : header.tensors()) {
    if (!tensor.name.starts_with("v.") && !tensor.name.starts_with("mm.input_projection."))
      continue;
    gguf::TensorInfo& kept = tensors_.emplace_back(tensor);
    kept.name = names_.emplace_back(tensor.name);
  }
  std::ranges::sort(tensors_, {}, &gguf::TensorInfo::name);
}

const gguf::TensorInfo* VisionTensors::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(tensors_, name, {}, &gguf::TensorInfo::name);
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace lapidary::model
