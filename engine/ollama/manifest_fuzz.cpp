// Fuzzes the store's JSON files and model names: no crash, and what is accepted keeps its
// promises.
#include <cstdlib>

#include "engine/ollama/manifest.h"
#include "engine/ollama/model_name.h"

using namespace lapidary;
using namespace lapidary::ollama;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto manifest = parse_manifest(text)) {
    for (const Layer& layer : manifest->layers) {
      if (blob_name(layer.blob.blob) != layer.blob.blob) std::abort();
    }
    if (!parse_json(dump_json(to_json(*manifest)), "manifest")) std::abort();
  }
  if (const auto config = parse_config(text)) dump_json(to_json(*config));
  if (const auto name = parse_model_name(text)) {
    const std::string path = name->path();
    if (path.contains("/../") || path.ends_with("/..")) std::abort();
    const auto again = parse_model_name(name->display());
    if (!again || again->path() != path) std::abort();
  }
  return 0;
}
