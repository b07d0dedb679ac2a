// What a vision tower is: its kind, its sizes, read from GGUF metadata and validated, and its
// tensors. Both producers' files are read: the tower in the model's own file, or in a projector
// file beside it.
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/gguf/header.h"
#include "engine/vision/image_size.h"

namespace lapidary::model {

struct VisionConfig {
  uint32_t layers = 0;  // 0: no tower, but an embedding of larger patches (VisionEmbedder)
  uint32_t hidden = 0;
  uint32_t heads = 0;  // hidden / heads is a multiple of 4
  uint32_t ffn = 0;
  uint32_t positions = 0;  // rows of each axis' table
  uint32_t output = 0;     // width of the text model's residual stream
  float rms_eps = 1e-6f;
  bool standardises = false;
  bool quick_gelu = false;

  uint32_t head_dim() const { return hidden / heads; }
  bool operator==(const VisionConfig&) const = default;

  // Nothing where the file has no tower. hidden: the text model's, which the projector must give.
  // kUnsupported: another kind of tower; kNotFound, kInvalidFormat: keys and tensors, as Config.
  static Result<std::optional<VisionConfig>> from_gguf(const gguf::Header& header, uint32_t hidden);
};

// The linears of a layer, in the order of v.clamp_data.
inline constexpr std::array<std::string_view, 7> kVisionLinears = {
    "attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down"};

// Of an embedding without a tower: the norms of a patch before and after it, and after positions,
// and the values of a patch.
inline constexpr std::array<std::string_view, 3> kPatchNorms = {"v.patch_norm.1", "v.patch_norm.2",
                                                                "v.patch_norm.3"};
inline constexpr uint32_t kEmbedderValues = 3 * vision::kTokenSide * vision::kTokenSide;

// The entries of a tower's tensors, apart from their header, which may be large: the tower is
// loaded when it is first needed.
class VisionTensors {
 public:
  // The tensors have passed VisionConfig::from_gguf.
  explicit VisionTensors(const gguf::Header& header);
  // nullptr if absent.
  const gguf::TensorInfo* find(std::string_view name) const;

 private:
  std::deque<std::string> names_;
  std::vector<gguf::TensorInfo> tensors_;
};

// "v.blk.3.attn_q.weight"
std::string vision_tensor_name(uint32_t layer, std::string_view name,
                               std::string_view suffix = ".weight");

}  // namespace lapidary::model
