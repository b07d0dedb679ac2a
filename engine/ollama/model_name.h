// Ollama's model names: [host/][namespace/]model[:tag] with its defaults, and where a name's
// manifest lies.
#pragma once

#include <string>
#include <string_view>

#include "engine/base/error.h"
#include "engine/base/json.h"

namespace lapidary::ollama {

inline constexpr std::string_view kDefaultHost = "registry.ollama.ai";
inline constexpr std::string_view kDefaultNamespace = "library";
inline constexpr std::string_view kDefaultTag = "latest";

// Every part is validated: none can be empty, "." or "..", or hold a path separator. Names compare
// without regard to case; the case that was written is kept.
struct ModelName {
  std::string host;
  std::string name_space;
  std::string model;
  std::string tag;

  // Relative to <store>/manifests: "registry.ollama.ai/library/nano/latest".
  std::string path() const;
  // The shortest name that means the same, always with its tag: "nano:latest", "hf.co/u/repo:Q4_0".
  std::string display() const;
};

// gemma4.md §10.2. At most 80 bytes a part (host: 350). Fails with kInvalidArgument, naming the
// part. A scheme ("https://") before the host is dropped.
Result<ModelName> parse_model_name(std::string_view text);

// {"host", "namespace", "model", "tag", "path", "display"}
Json to_json(const ModelName& name);

}  // namespace lapidary::ollama
