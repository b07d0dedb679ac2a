// rullama's adapters: the layout, and each refusal by code and text.
#include "engine/adapter/rullama.h"

#include <gtest/gtest.h>

#include "engine/adapter/safetensors.h"
#include "engine/adapter/test_adapter.h"

namespace lapidary::adapter {
namespace {

using enum ErrorCode;

struct File {
  std::string format = "rullama-lora-v0", rank = "2", alpha = "16";
  std::string module = "3.attn_q";
  std::string half = "A";

  std::vector<std::byte> bytes() const {
    const std::vector<float> a = {1, 2, 3, 4, 5, 6}, b = {1, 2, 3, 4, 5, 6, 7, 8};
    const std::vector<SafetensorsOutput> tensors = {
        {cat("lora.blk.", module, ".", half), {2, 3}, a},
        {cat("lora.blk.", module, ".B"), {4, 2}, b}};
    const std::vector<std::pair<std::string, std::string>> metadata = {{"format", format},
                                                                       {"rank", rank},
                                                                       {"alpha", alpha},
                                                                       {"target_modules", "attn_q"},
                                                                       {"dtype", "f32"}};
    return *write_safetensors(tensors, metadata);
  }
};

TEST(Rullama, ModulesAreRead) {
  const std::pair<std::string, std::string> names[] = {
      {"3.attn_q", "blk.3.attn_q.weight"},
      {"0.attn_o", "blk.0.attn_output.weight"},
      {"34.attn_output", "blk.34.attn_output.weight"},
      {"3.ffn_down", "blk.3.ffn_down.weight"},
      {"0.lm_head", "output.weight"}};
  for (const auto& [name, tensor] : names) {
    const auto adapter = read_rullama(File{.module = name}.bytes());
    ASSERT_TRUE(adapter.has_value()) << adapter.error().message;
    ASSERT_EQ(adapter->modules.size(), 1u);
    EXPECT_EQ(module_name(adapter->modules[0]), tensor);
    EXPECT_EQ(adapter->modules[0].a, (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(adapter->modules[0].outputs, 4u);
    EXPECT_EQ(scale(*adapter, adapter->modules[0]), 8.0);
  }
}

TEST(Rullama, OthersAreRefusedByName) {
  struct Case {
    File file;
    ErrorCode code;
    std::string_view text;
  };
  const Case cases[] = {
      {{.format = "rullama-lora-v1"}, kUnsupported, "'format' is not 'rullama-lora-v0'"},
      {{.rank = "4"}, kInvalidFormat, "'rank'"},
      {{.alpha = "x"}, kInvalidFormat, "'alpha' is 'x'"},
      {{.alpha = "inf"}, kInvalidFormat, "'alpha' is 'inf'"},
      {{.alpha = "1e99"}, kInvalidFormat, "too large"},
      {{.alpha = "-1"}, kInvalidFormat, "alpha -1"},
      {{.module = "0.embed_tokens"}, kUnsupported, "embed_tokens"},
      {{.module = "1.lm_head"}, kUnsupported, "lm_head"},
      {{.module = "x.attn_q"}, kUnsupported, "blk.x"},
      {{.module = "3"}, kUnsupported, "'lora.blk.3.A'"},
      {{.module = "3."}, kUnsupported, "'lora.blk.3..A'"},
      {{.half = "C"}, kUnsupported, "attn_q.C"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    expect_error(read_rullama(c.file.bytes()), c.code, c.text);
  }
}

TEST(Rullama, EveryTruncationIsAnError) {
  const auto file = File().bytes();
  for (size_t size = 0; size < file.size(); ++size) {
    const std::vector<std::byte> cut(file.begin(), file.begin() + static_cast<ptrdiff_t>(size));
    expect_error(read_rullama(cut), kTruncated, "safetensors");
  }
}

}  // namespace
}  // namespace lapidary::adapter
