// Model names: defaults, ports, and everything that must not become a path.
#include "engine/ollama/model_name.h"

#include <gtest/gtest.h>

#include "engine/base/text.h"

namespace lapidary::ollama {
namespace {

TEST(ModelName, FillsInTheDefaults) {
  const auto name = parse_model_name("gemma4:e2b");
  ASSERT_TRUE(name) << name.error().message;
  EXPECT_EQ(name->path(), "registry.ollama.ai/library/gemma4/e2b");
  EXPECT_EQ(name->display(), "gemma4:e2b");
  EXPECT_EQ(dump_json(to_json(*parse_model_name("nano"))),
            R"({"host":"registry.ollama.ai","namespace":"library","model":"nano","tag":"latest",)"
            R"("path":"registry.ollama.ai/library/nano/latest","display":"nano:latest"})");
}

TEST(ModelName, Forms) {
  struct Case {
    std::string_view text, path, display;
  };
  constexpr Case kCases[] = {
      {"hf.co/user/repo:Q4_K_M", "hf.co/user/repo/Q4_K_M", "hf.co/user/repo:Q4_K_M"},
      {"someone/model", "registry.ollama.ai/someone/model/latest", "someone/model:latest"},
      {"localhost:5000/a/b", "localhost:5000/a/b/latest", "localhost:5000/a/b:latest"},
      {"localhost:5000/a/b:t", "localhost:5000/a/b/t", "localhost:5000/a/b:t"},
      {"https://registry.ollama.ai/library/nano:latest", "registry.ollama.ai/library/nano/latest",
       "nano:latest"},
      {"_x/Y.z-1:v1.0-b", "registry.ollama.ai/_x/Y.z-1/v1.0-b", "_x/Y.z-1:v1.0-b"},
  };
  for (const Case& c : kCases) {
    const auto name = parse_model_name(c.text);
    ASSERT_TRUE(name) << c.text << ": " << name.error().message;
    EXPECT_EQ(name->path(), c.path);
    EXPECT_EQ(name->display(), c.display);
    EXPECT_EQ(parse_model_name(name->display())->path(), c.path);
  }
}

TEST(ModelName, RefusesWhatCouldLeaveTheStore) {
  struct Case {
    std::string_view text, message;
  };
  const std::string long_model(81, 'a');
  const std::string long_host = cat(std::string(351, 'h'), "/n/m");
  const Case kCases[] = {
      {"", "the model is empty"},
      {":tag", "the model is empty"},
      {"model:", "the tag is empty"},
      {"/model", "the namespace is empty"},
      {"//model", "the namespace is empty"},
      {"/n/model", "the host is empty"},
      {"..", "the model must begin with"},
      {"../../etc/passwd", "the host must begin with"},
      {"../n/m", "the host must begin with"},
      {"a/../m", "the namespace must begin with"},
      {"n/..:x", "the model must begin with"},
      {"n/m:..", "the tag must begin with"},
      {"h/a/b/c", "the host holds"},
      {"n.s/m", "the namespace holds '.'"},
      {"m\\x", "the model holds"},
      {"m x", "the model holds ' '"},
      {std::string_view("m\0x", 3), "the model holds"},
      {"m\xc3\xa9", "the model holds"},
      {"-m", "the model must begin with"},
      {"m@sha256", "the model holds '@'"},
      {long_model, "the model is longer than 80 bytes"},
      {long_host, "the host is longer than 350 bytes"},
  };
  for (const Case& c : kCases) {
    const auto name = parse_model_name(c.text);
    ASSERT_FALSE(name) << c.text;
    EXPECT_EQ(name.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(name.error().message.find(c.message), std::string::npos)
        << c.text << ": " << name.error().message;
  }
}

}  // namespace
}  // namespace lapidary::ollama
