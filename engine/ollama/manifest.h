// Ollama's manifests and config blobs: which blob holds a model's weights, template, parameters and
// so on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/json.h"

namespace lapidary::ollama {

// What a layer is for, by its media type application/vnd.ollama.image.<kind>. The old "prompt" is
// kTemplate. kUnknown: a media type that we do not know; the layer is kept, and left alone.
enum class LayerKind {
  kModel,
  kProjector,
  kAdapter,
  kDraft,
  kTemplate,
  kSystem,
  kParams,
  kMessages,
  kLicense,
  kEmbed,
  kTensor,
  kJson,
  kUnknown,
};
std::string_view layer_kind_name(LayerKind kind);

// A blob by its content. `digest` is as written ("sha256:<hex>"); `blob` is its file name in
// <store>/blobs, "sha256-<64 hex>", made of the validated digest and nothing else.
struct Blob {
  std::string digest;
  std::string blob;
  uint64_t size = 0;  // bytes, at most 2^53
};

struct Layer {
  LayerKind kind = LayerKind::kUnknown;
  std::string media_type;
  Blob blob;
};

struct Manifest {
  std::vector<Layer> layers;  // in file order; exactly one or more of kModel
  std::optional<Blob> config;
};

// The file name of a digest that matches ^sha256[:-][0-9a-f]{64}$; else kInvalidFormat.
Result<std::string> blob_name(std::string_view digest);

// gemma4.md §10.2. kInvalidFormat for what breaks the format; kUnsupported, saying what to pull
// instead, for models made of safetensors and for cloud models, which have no weights here.
Result<Manifest> parse_manifest(std::string_view json);

// {"layers": [{"kind", "mediaType", "digest", "size", "blob"}], "config": {"digest", "size",
// "blob"} | null}
Json to_json(const Manifest& manifest);

// The config blob: what its maker says about the model. Empty strings for what it leaves out.
struct Config {
  std::string format;      // "gguf"
  std::string family;      // "gemma4"
  std::string parameters;  // "7.8M"
  std::string file_type;   // "Q4_K_M"
  std::string renderer;    // "gemma4"
  std::string parser;      // "gemma4"
  std::string requires_version;
};
// kUnsupported for safetensors and cloud models, as above.
Result<Config> parse_config(std::string_view json);

// {"format", "family", "parameters", "fileType", "renderer", "parser", "requires"}
Json to_json(const Config& config);

}  // namespace lapidary::ollama
