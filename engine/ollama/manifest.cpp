// Ollama's manifests and config blobs, from files that anybody may have written.
#include "engine/ollama/manifest.h"

#include <algorithm>

#include "engine/base/text.h"

namespace lapidary::ollama {
namespace {

constexpr size_t kMaxManifestBytes = 4 << 20;
constexpr size_t kMaxLayers = 100'000;  // a safetensors model has one layer a tensor
constexpr uint64_t kMaxBlobBytes = uint64_t{1} << 53;
constexpr std::string_view kMediaPrefix = "application/vnd.ollama.image.";

struct KindName {
  LayerKind kind;
  std::string_view name;
};
constexpr KindName kKinds[] = {
    {LayerKind::kModel, "model"},       {LayerKind::kProjector, "projector"},
    {LayerKind::kAdapter, "adapter"},   {LayerKind::kDraft, "draft"},
    {LayerKind::kTemplate, "template"}, {LayerKind::kSystem, "system"},
    {LayerKind::kParams, "params"},     {LayerKind::kMessages, "messages"},
    {LayerKind::kLicense, "license"},   {LayerKind::kEmbed, "embed"},
    {LayerKind::kTensor, "tensor"},     {LayerKind::kJson, "json"},
    {LayerKind::kUnknown, "unknown"},
};

LayerKind kind_of(std::string_view media_type) {
  if (!media_type.starts_with(kMediaPrefix)) return LayerKind::kUnknown;
  const std::string_view name = media_type.substr(kMediaPrefix.size());
  if (name == "prompt") return LayerKind::kTemplate;
  for (const KindName& entry : kKinds) {
    if (entry.name == name) return entry.kind;
  }
  return LayerKind::kUnknown;
}

std::unexpected<Error> invalid(std::string message) {
  return fail(ErrorCode::kInvalidFormat, std::move(message));
}

// The member `key` as text; `where` names the object in messages.
Result<std::string> text_member(const Json& object, std::string_view key, std::string_view where) {
  const Json* member = json_member(object, key);
  if (!member) return invalid(cat(where, ": '", key, "' is missing"));
  if (!member->is_string()) return invalid(cat(where, ": '", key, "' is not a string"));
  return member->get_ref<const std::string&>();
}

Result<Blob> parse_blob(const Json& object, std::string_view where) {
  if (!object.is_object()) return invalid(cat(where, ": not a JSON object"));
  Blob blob;
  TRY(blob.digest, text_member(object, "digest", where));
  auto name = blob_name(blob.digest);
  if (!name) return invalid(cat(where, ": ", name.error().message));
  blob.blob = std::move(*name);
  const Json* size = json_member(object, "size");
  if (!size) return invalid(cat(where, ": 'size' is missing"));
  if (!size->is_number_unsigned() || size->get<uint64_t>() > kMaxBlobBytes) {
    return invalid(cat(where, ": 'size' is not a count of bytes"));
  }
  blob.size = size->get<uint64_t>();
  return blob;
}

std::unexpected<Error> refuse_safetensors() {
  return fail(
      ErrorCode::kUnsupported,
      "this model is made of safetensors (an MLX build), not of a GGUF file: pull a tag without "
      "'-mlx', '-nvfp4' or '-mxfp8'");
}
std::unexpected<Error> refuse_cloud() {
  return fail(
      ErrorCode::kUnsupported,
      "this is a cloud model: its weights are not on this machine; pull a tag without '-cloud'");
}

}  // namespace

std::string_view layer_kind_name(LayerKind kind) {
  for (const KindName& entry : kKinds) {
    if (entry.kind == kind) return entry.name;
  }
  return "unknown";
}

Result<std::string> blob_name(std::string_view digest) {
  constexpr size_t kPrefix = 7, kHex = 64;
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  const bool ok = digest.size() == kPrefix + kHex && digest.starts_with("sha256") &&
                  (digest[6] == ':' || digest[6] == '-') &&
                  std::ranges::all_of(digest.substr(kPrefix), is_hex);
  if (!ok)
    return invalid(
        cat("'", printable(digest, 80), "' is not a digest (sha256: and 64 hex digits)"));
  return cat("sha256-", digest.substr(kPrefix));
}

Result<Manifest> parse_manifest(std::string_view text) {
  if (text.size() > kMaxManifestBytes) {
    return invalid(
        cat("manifest: ", text.size(), " bytes; at most ", kMaxManifestBytes, " are expected"));
  }
  TRY(const Json json, parse_json(text, "manifest", 16));
  if (!json.is_object()) return invalid("manifest: not a JSON object");
  const Json* version = json_member(json, "schemaVersion");
  if (version && *version != 2) return invalid("manifest: 'schemaVersion' is not 2");

  Manifest manifest;
  if (const Json* config = json_member(json, "config"); config && !config->is_null()) {
    TRY(manifest.config, parse_blob(*config, "manifest: config"));
  }
  const Json* layers = json_member(json, "layers");
  if (layers && layers->is_null()) layers = nullptr;
  if (layers && !layers->is_array()) return invalid("manifest: 'layers' is not an array");
  if (layers && layers->size() > kMaxLayers)
    return invalid(cat("manifest: ", layers->size(), " layers"));
  for (size_t i = 0; layers && i < layers->size(); ++i) {
    const std::string where = cat("manifest: layer ", i);
    Layer layer;
    TRY(layer.blob, parse_blob((*layers)[i], where));
    TRY(layer.media_type, text_member((*layers)[i], "mediaType", where));
    layer.kind = kind_of(layer.media_type);
    manifest.layers.push_back(std::move(layer));
  }

  const auto has = [&](LayerKind kind) {
    return std::ranges::contains(manifest.layers, kind, &Layer::kind);
  };
  if (!has(LayerKind::kModel)) {
    if (has(LayerKind::kTensor)) return refuse_safetensors();
    if (manifest.layers.empty() && manifest.config) return refuse_cloud();
    return invalid("manifest: no layer holds a model");
  }
  return manifest;
}

Json to_json(const Manifest& manifest) {
  const auto blob_json = [](const Blob& blob) {
    return Json{{"digest", blob.digest}, {"size", blob.size}, {"blob", blob.blob}};
  };
  Json layers = Json::array();
  for (const Layer& layer : manifest.layers) {
    Json entry{{"kind", std::string(layer_kind_name(layer.kind))}, {"mediaType", layer.media_type}};
    entry.update(blob_json(layer.blob));
    layers.push_back(std::move(entry));
  }
  Json out;
  out["layers"] = std::move(layers);
  out["config"] = manifest.config ? blob_json(*manifest.config) : Json(nullptr);
  return out;
}

Result<Config> parse_config(std::string_view text) {
  if (text.size() > kMaxManifestBytes) return invalid(cat("config: ", text.size(), " bytes"));
  TRY(const Json json, parse_json(text, "config", 16));
  if (!json.is_object()) return invalid("config: not a JSON object");
  Status status;
  const auto text_of = [&](std::string_view key) -> std::string {
    const Json* member = json_member(json, key);
    if (!member || member->is_null()) return "";
    if (member->is_string()) return member->get_ref<const std::string&>();
    if (status) status = invalid(cat("config: '", key, "' is not a string"));
    return "";
  };
  Config config{.format = text_of("model_format"),
                .family = text_of("model_family"),
                .parameters = text_of("model_type"),
                .file_type = text_of("file_type"),
                .renderer = text_of("renderer"),
                .parser = text_of("parser"),
                .requires_version = text_of("requires")};
  const bool cloud = !text_of("remote_host").empty() || !text_of("remote_model").empty();
  TRY_VOID(std::move(status));
  if (cloud) return refuse_cloud();
  if (config.format == "safetensors") return refuse_safetensors();
  if (!config.format.empty() && config.format != "gguf") {
    return fail(ErrorCode::kUnsupported,
                cat("the model's format is '", printable(config.format), "', not GGUF"));
  }
  return config;
}

Json to_json(const Config& config) {
  return Json{{"format", config.format},
              {"family", config.family},
              {"parameters", config.parameters},
              {"fileType", config.file_type},
              {"renderer", config.renderer},
              {"parser", config.parser},
              {"requires", config.requires_version}};
}

}  // namespace lapidary::ollama
