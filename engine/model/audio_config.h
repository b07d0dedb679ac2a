// What an audio tower is: its sizes, read from GGUF metadata and validated, and its tensors. Both
// producers' files are read: the tower in the model's own file, or in a projector file beside it.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "engine/base/error.h"
#include "engine/gguf/header.h"
#include "engine/model/tower_tensors.h"

namespace lapidary::model {

struct AudioConfig {
  uint32_t layers = 0;
  uint32_t hidden = 0;  // a multiple of 4
  uint32_t heads = 0;
  uint32_t ffn = 0;
  std::array<uint32_t, 2> channels = {};  // of the two convolutions, at most 256
  uint32_t taps = 0;                      // of the convolution over time
  uint32_t embedding = 0;                 // width of what the tower gives to the projector
  uint32_t output = 0;                    // width of the text model's residual stream
  float rms_eps = 1e-6f;

  uint32_t head_dim() const { return hidden / heads; }
  bool operator==(const AudioConfig&) const = default;

  // Nothing where the file has no tower. hidden: the text model's, which the projector must give.
  // kUnsupported: another kind of tower; kNotFound, kInvalidFormat: keys and tensors, as Config.
  static Result<std::optional<AudioConfig>> from_gguf(const gguf::Header& header, uint32_t hidden);
};

// The clipped linears of a layer.
inline constexpr std::array<std::string_view, 10> kAudioLinears = {
    "ffn_up",   "ffn_down", "attn_q",   "attn_k",   "attn_v",
    "attn_out", "conv_pw1", "conv_pw2", "ffn_up_1", "ffn_down_1"};

// Found by the names that llama.cpp's files have, whatever the file is.
class AudioTensors : public TowerTensors {
 public:
  explicit AudioTensors(const gguf::Header& header);
};

// "a.blk.3.attn_q.weight"
std::string audio_tensor_name(uint32_t layer, std::string_view name,
                              std::string_view suffix = ".weight");

}  // namespace lapidary::model
