#include "engine/model/audio_config.h"

#include <algorithm>

#include "engine/audio/audio.h"
#include "engine/base/text.h"
#include "engine/kernels/audio.h"
#include "engine/model/config.h"

namespace lapidary::model {
namespace {

constexpr std::array<std::string_view, 2> kPrefixes = {"a.", "mm.a."};
constexpr uint32_t kMaxAudioFfn = 65'536;
constexpr uint32_t kMaxEmbedding = 65'536;
constexpr uint32_t kMaxChannels = 256;

// Ollama's names of a tower's tensors and of a layer's, and llama.cpp's. Two of them mean something
// else there.
struct Renamed {
  std::string_view ollama, llama;
};
constexpr Renamed kTowerNames[] = {{"a.pre_encode.out.", "a.input_projection."},
                                   {"mm.a.fc.", "a.pre_encode.out."}};
constexpr Renamed kLayerNames[] = {{"ln1.", "attn_pre_norm."},
                                   {"ln2.", "attn_post_norm."},
                                   {"layer_pre_norm.", "ln2."},
                                   {"linear_pos.", "attn_k_rel."}};

std::string llama_name(std::string_view name) {
  constexpr std::string_view kBlocks = "a.blk.";
  const bool block = name.starts_with(kBlocks);
  const size_t layer_end = block ? name.find('.', kBlocks.size()) : name.npos;
  const size_t start = layer_end == name.npos ? 0 : layer_end + 1;
  const std::string_view rest = name.substr(start);
  for (const auto& [ollama, llama] :
       block ? std::span<const Renamed>(kLayerNames) : std::span<const Renamed>(kTowerNames)) {
    if (rest.starts_with(ollama))
      return cat(name.substr(0, start), llama, rest.substr(ollama.size()));
  }
  return std::string(name);
}

// A small size that only a tensor's shape gives.
Result<uint32_t> extent(const TensorCheck& check, std::string_view name, size_t axis,
                        uint32_t most) {
  TRY(const gguf::TensorInfo* tensor, check.find(name));
  const uint64_t size = tensor->dims[axis];
  if (size <= most) return static_cast<uint32_t>(size);
  return fail(ErrorCode::kInvalidFormat,
              cat("tensor ", name, " is ", size, " wide, expected at most ", most));
}

Status check_layer(const TensorCheck& check, const AudioConfig& config, uint32_t layer) {
  const uint64_t hidden = config.hidden;
  const auto name = [&](std::string_view part) { return audio_tensor_name(layer, part); };
  for (const std::string_view norm :
       {"ffn_norm", "ffn_post_norm", "attn_pre_norm", "attn_post_norm", "conv_norm", "norm_conv",
        "ffn_norm_1", "ffn_post_norm_1", "ln2"})
    TRY_VOID(check.vector(name(norm), hidden));
  TRY_VOID(check.vector(name("per_dim_scale"), config.head_dim()));
  TRY_VOID(check.has(name("conv_dw"), {config.taps, hidden, 1, 1}, false));
  TRY_VOID(check.has(name("attn_k_rel"), {hidden, hidden, 1, 1}, true));
  for (const std::string_view linear : kAudioLinears) {
    const bool down = linear.starts_with("ffn_down");
    const uint64_t rows = linear.starts_with("ffn_up") ? config.ffn
                          : linear == "conv_pw1"       ? 2 * hidden
                                                       : hidden;
    TRY_VOID(check.has(name(linear), {down ? config.ffn : hidden, rows, 1, 1}, true));
  }
  return {};
}

Status check_tensors(const AudioTensors& tensors, AudioConfig& config) {
  const TensorCheck check(tensors, "audio");
  const uint64_t hidden = config.hidden;
  for (uint32_t i = 0; i < 2; ++i) {
    const std::string name = cat("a.conv1d.", i);
    TRY(config.channels[i], extent(check, name + ".weight", 3, kMaxChannels));
    TRY_VOID(check.has(name + ".weight",
                       {3, 3, i == 0 ? 1 : config.channels[0], config.channels[i]}, false));
    TRY_VOID(check.vector(name + ".norm.weight", config.channels[i]));
  }
  TRY_VOID(check.has("a.input_projection.weight",
                     {audio::kMelBins / 4 * config.channels[1], hidden, 1, 1}, true));
  TRY(config.taps, extent(check, audio_tensor_name(0, "conv_dw"), 0, kernels::kAudioPast));
  for (uint32_t l = 0; l < config.layers; ++l) TRY_VOID(check_layer(check, config, l));
  TRY(config.embedding, extent(check, "a.pre_encode.out.weight", 1, kMaxEmbedding));
  TRY_VOID(check.has("a.pre_encode.out.weight", {hidden, config.embedding, 1, 1}, true));
  TRY_VOID(check.vector("a.pre_encode.out.bias", config.embedding));
  return check.has("mm.a.input_projection.weight", {config.embedding, config.output, 1, 1}, true);
}

}  // namespace

std::string audio_tensor_name(uint32_t layer, std::string_view name, std::string_view suffix) {
  return cat("a.blk.", layer, ".", name, suffix);
}

AudioTensors::AudioTensors(const gguf::Header& header) : TowerTensors(header, kPrefixes) {
  if (find("mm.a.fc.weight") != nullptr || find("a.blk.0.layer_pre_norm.weight") != nullptr)
    rename_all(llama_name);
}

Result<std::optional<AudioConfig>> AudioConfig::from_gguf(const gguf::Header& header,
                                                          uint32_t text_hidden) {
  TRY(const bool projector, header.get_bool("clip.has_audio_encoder", false));
  const std::string prefix = projector ? "clip.audio." : "gemma4.audio.";
  if (projector) {
    TRY(const std::string_view type, header.get_string("clip.audio.projector_type", "gemma4a"));
    if (type != "gemma4a") {
      return fail(ErrorCode::kUnsupported, cat("an audio encoder of type \"", printable(type),
                                               "\" is not supported: \"gemma4a\" is"));
    }
  } else if (header.find(prefix + "block_count") == nullptr) {
    return std::nullopt;
  }
  AudioConfig config;
  config.output = text_hidden;
  TRY(config.layers, bounded_u32(header, prefix + "block_count", 1, kMaxLayers));
  TRY(config.hidden, bounded_u32(header, prefix + "embedding_length", 4, kMaxHidden));
  TRY(config.ffn, bounded_u32(header, prefix + "feed_forward_length", 4, kMaxAudioFfn));
  TRY(config.heads, bounded_u32(header, prefix + "attention.head_count", 1, kMaxHeads));
  if (config.hidden % 4 != 0 || config.hidden % config.heads != 0 ||
      config.head_dim() > kMaxHeadDim) {
    return fail(ErrorCode::kInvalidFormat,
                cat("an audio tower of width ", config.hidden, " cannot have ", config.heads,
                    " heads: a head is at most ", kMaxHeadDim, " wide"));
  }
  const std::string bins_key = prefix + "num_mel_bins";
  TRY(const uint32_t bins, header.get_u32(bins_key, audio::kMelBins));
  if (bins != audio::kMelBins)
    return fail(ErrorCode::kUnsupported, cat(bins_key, " is ", bins, ": only 128 are supported"));
  TRY(config.rms_eps, tower_eps(header, prefix + "attention.layer_norm_epsilon"));
  TRY_VOID(check_tensors(AudioTensors(header), config));
  return config;
}

}  // namespace lapidary::model
