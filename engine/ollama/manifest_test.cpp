// Manifests and config blobs: the store in models/, every layer kind, and hostile ones.
#include "engine/ollama/manifest.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "engine/base/text.h"

namespace lapidary::ollama {
namespace {

std::string read_file(std::string_view path) {
  std::ifstream in(cat(LAPIDARY_ROOT "/", path), std::ios::binary);
  EXPECT_TRUE(in) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string digest(char c = 'a') { return cat("sha256:", std::string(64, c)); }
std::string layer(std::string_view kind, std::string_view size = "1") {
  return cat(R"({"mediaType":"application/vnd.ollama.image.)", kind, R"(","digest":")", digest(),
             R"(","size":)", size, "}");
}
std::string manifest(std::string_view layers) {
  return cat(R"({"schemaVersion":2,"config":{"digest":")", digest('c'), R"(","size":3},"layers":[)",
             layers, "]}");
}

TEST(Manifest, ReadsTheEmbeddedStore) {
  const auto parsed =
      parse_manifest(read_file("models/manifests/registry.ollama.ai/library/nano/latest"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->layers.size(), 4u);
  EXPECT_EQ(parsed->layers[0].kind, LayerKind::kModel);
  EXPECT_EQ(parsed->layers[1].kind, LayerKind::kLicense);
  EXPECT_EQ(parsed->layers[2].kind, LayerKind::kTemplate);
  EXPECT_EQ(parsed->layers[3].kind, LayerKind::kParams);
  for (const Layer& each : parsed->layers) {
    EXPECT_EQ(read_file(cat("models/blobs/", each.blob.blob)).size(), each.blob.size);
  }
  ASSERT_TRUE(parsed->config);
  const auto config = parse_config(read_file(cat("models/blobs/", parsed->config->blob)));
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(
      dump_json(to_json(*config)),
      R"({"format":"gguf","family":"gemma4","parameters":"7.8M","fileType":"Q4_K_M","renderer":"gemma4",)"
      R"("parser":"gemma4","requires":""})");
}

TEST(Manifest, EveryLayerKind) {
  constexpr std::string_view kKinds[] = {"model",  "projector", "adapter",  "draft",   "template",
                                         "system", "params",    "messages", "license", "embed"};
  std::string layers;
  for (const std::string_view kind : kKinds) layers += cat(layer(kind), ",");
  layers += cat(layer("prompt"), ",", layer("hologram"), R"(,{"mediaType":"text/plain","digest":")",
                digest(), R"(","size":0})");
  const auto parsed = parse_manifest(manifest(layers));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->layers.size(), std::size(kKinds) + 3);
  for (size_t i = 0; i < std::size(kKinds); ++i)
    EXPECT_EQ(layer_kind_name(parsed->layers[i].kind), kKinds[i]);
  EXPECT_EQ(parsed->layers[10].kind, LayerKind::kTemplate);
  EXPECT_EQ(parsed->layers[11].kind, LayerKind::kUnknown);
  EXPECT_EQ(parsed->layers[12].kind, LayerKind::kUnknown);
  EXPECT_EQ(parsed->layers[12].media_type, "text/plain");
}

TEST(Manifest, WritesItsJson) {
  const auto parsed = parse_manifest(manifest(layer("model", "9007199254740992")));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(
      dump_json(to_json(*parsed)),
      cat(R"({"layers":[{"kind":"model","mediaType":"application/vnd.ollama.image.model","digest":")",
          digest(), R"(","size":9007199254740992,"blob":"sha256-)", std::string(64, 'a'),
          R"("}],"config":{"digest":")", digest('c'), R"(","size":3,"blob":"sha256-)",
          std::string(64, 'c'), R"("}})"));
}

TEST(Manifest, DigestsAreCheckedBeforeTheyBecomeAPath) {
  EXPECT_EQ(*blob_name(cat("sha256-", std::string(64, '0'))), cat("sha256-", std::string(64, '0')));
  const std::string hex63(63, 'a'), hex65(65, 'a');
  const std::string bad[] = {
      "",
      "sha256:",
      cat("sha256:", hex63),
      cat("sha256:", hex65),
      cat("sha256:", hex63, "A"),
      cat("sha256:", hex63, "/"),
      cat("sha256:", hex63, "g"),
      cat("sha512:", hex63, "a"),
      cat("sha256/", hex63, "a"),
      cat("SHA256:", hex63, "a"),
      "sha256:../../../../../../../../../../../../../../../../../../etc/pass",
      cat("sha256:", hex63, std::string_view("\0", 1))};
  for (const std::string& text : bad) {
    const auto name = blob_name(text);
    ASSERT_FALSE(name) << text;
    EXPECT_EQ(name.error().code, ErrorCode::kInvalidFormat);
    EXPECT_NE(name.error().message.find("is not a digest"), std::string::npos);
  }
}

TEST(Manifest, Refusals) {
  struct Case {
    std::string text, message;
    ErrorCode code = ErrorCode::kInvalidFormat;
  };
  const std::string d = digest();
  const Case kCases[] = {
      {"", "not valid JSON"},
      {"[]", "not a JSON object"},
      {"null", "not a JSON object"},
      {std::string(100, '['), "nested deeper"},
      {R"({"schemaVersion":1,"layers":[]})", "'schemaVersion' is not 2"},
      {R"({"layers":{}})", "'layers' is not an array"},
      {R"({"layers":[]})", "no layer holds a model"},
      {R"({"layers":[7]})", "layer 0: not a JSON object"},
      {R"({"layers":[{}]})", "layer 0: 'digest' is missing"},
      {R"({"layers":[{"digest":7}]})", "layer 0: 'digest' is not a string"},
      {R"({"layers":[{"digest":"sha256:../x"}]})", "layer 0: 'sha256:../x' is not a digest"},
      {cat(R"({"layers":[{"digest":")", d, R"("}]})"), "layer 0: 'size' is missing"},
      {cat(R"({"layers":[{"digest":")", d, R"(","size":-1}]})"), "'size' is not a count"},
      {cat(R"({"layers":[{"digest":")", d, R"(","size":1e30}]})"), "'size' is not a count"},
      {cat(R"({"layers":[{"digest":")", d, R"(","size":1}]})"), "layer 0: 'mediaType' is missing"},
      {manifest(layer("model", "9007199254740993")), "'size' is not a count"},
      {manifest(layer("license")), "no layer holds a model"},
      {R"({"config":5,"layers":[]})", "config: not a JSON object"},
      {manifest(cat(layer("tensor"), ",", layer("json"))), "safetensors", ErrorCode::kUnsupported},
      {manifest(""), "cloud model", ErrorCode::kUnsupported},
      {std::string((4 << 20) + 1, ' '), "bytes; at most"},
  };
  for (const Case& c : kCases) {
    const auto parsed = parse_manifest(c.text);
    ASSERT_FALSE(parsed) << c.text;
    EXPECT_EQ(parsed.error().code, c.code) << parsed.error().message;
    EXPECT_NE(parsed.error().message.find(c.message), std::string::npos)
        << c.message << ": " << parsed.error().message;
  }
}

TEST(Config, Refusals) {
  struct Case {
    std::string_view text, message;
    ErrorCode code;
  };
  constexpr Case kCases[] = {
      {"{", "not valid JSON", ErrorCode::kInvalidFormat},
      {"3", "not a JSON object", ErrorCode::kInvalidFormat},
      {R"({"model_family":3})", "'model_family' is not a string", ErrorCode::kInvalidFormat},
      {R"({"model_format":"safetensors"})", "safetensors", ErrorCode::kUnsupported},
      {R"({"model_format":"onnx"})", "'onnx', not GGUF", ErrorCode::kUnsupported},
      {R"({"remote_host":"https://ollama.com","remote_model":"x"})", "cloud model",
       ErrorCode::kUnsupported},
  };
  for (const Case& c : kCases) {
    const auto parsed = parse_config(c.text);
    ASSERT_FALSE(parsed) << c.text;
    EXPECT_EQ(parsed.error().code, c.code);
    EXPECT_NE(parsed.error().message.find(c.message), std::string::npos) << parsed.error().message;
  }
}

}  // namespace
}  // namespace lapidary::ollama
