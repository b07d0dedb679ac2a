#include "engine/model/vision_config.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/model/config.h"
#include "engine/vision/image_size.h"

namespace lapidary::model {
namespace {

constexpr std::array<std::string_view, 2> kPrefixes = {"v.", "mm.input_projection."};
constexpr uint32_t kMaxPositions = 1 << 16;
constexpr uint32_t kMaxVisionFfn = 65'536;

Status check_positions(const TensorCheck& check, VisionConfig& config) {
  TRY(const gguf::TensorInfo* positions, check.find("v.position_embd.weight"));
  config.positions = static_cast<uint32_t>(std::min<uint64_t>(positions->dims[1], kMaxPositions));
  return check.has("v.position_embd.weight", {config.hidden, config.positions, 2, 1}, false);
}

Status check_tensors(const VisionTensors& tensors, VisionConfig& config) {
  const TensorCheck check(tensors, "vision");
  const uint64_t hidden = config.hidden;
  const uint64_t ffn = config.ffn;
  TRY_VOID(check.has("v.patch_embd.weight", {vision::kPatch, vision::kPatch, 3, hidden}, false));
  TRY_VOID(check_positions(check, config));
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
  config.standardises = tensors.find("v.std_scale") != nullptr;
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
  TRY(config.hidden, bounded_u32(header, "clip.vision.embedding_length", 4, kMaxHidden));
  const VisionTensors tensors(header);
  const TensorCheck check(tensors, "vision");
  const uint64_t hidden = config.hidden;
  TRY_VOID(check.has("v.patch_embd.weight", {kEmbedderValues, hidden, 1, 1}, true));
  TRY_VOID(check.vector("v.patch_embd.bias", hidden));
  for (size_t i = 0; i < kPatchNorms.size(); ++i) {
    for (const std::string_view part : {".weight", ".bias"})
      TRY_VOID(check.vector(cat(kPatchNorms[i], part), i == 0 ? kEmbedderValues : hidden));
  }
  TRY_VOID(check_positions(check, config));
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
  TRY(config.layers, bounded_u32(header, prefix + "block_count", 1, kMaxLayers));
  TRY(config.hidden, bounded_u32(header, prefix + "embedding_length", 4, kMaxHidden));
  TRY(config.ffn, bounded_u32(header, prefix + "feed_forward_length", 4, kMaxVisionFfn));
  TRY(config.heads, bounded_u32(header, prefix + "attention.head_count", 1, kMaxHeads));
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
  TRY(config.rms_eps, tower_eps(header, prefix + "attention.layer_norm_epsilon"));
  // Files that say nothing mean what the model was trained with (gemma4.md §15).
  TRY(const bool gelu, header.get_bool("clip.use_gelu", true));
  config.quick_gelu = !gelu;
  TRY_VOID(check_tensors(VisionTensors(header), config));
  return config;
}

VisionTensors::VisionTensors(const gguf::Header& header) : TowerTensors(header, kPrefixes) {}

}  // namespace lapidary::model
