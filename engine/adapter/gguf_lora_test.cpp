// llama.cpp's adapters: what its fixtures mean, what we write, and each refusal by code and text.
#include "engine/adapter/gguf_lora.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/adapter/test_adapter.h"
#include "engine/gguf/encode.h"
#include "engine/gguf/writer.h"
#include "engine/reference/model.h"

namespace lapidary::adapter {
namespace {

using enum ErrorCode;
using enum model::TensorRole;
using gguf::TensorType;
using reference::read_fixture;

LoraAdapter must_read(Bytes file) {
  auto adapter = read_gguf_lora(file);
  if (!adapter) {
    ADD_FAILURE() << adapter.error().message;
    std::abort();
  }
  return std::move(*adapter);
}

// The header's entries, then an A [2, 3] and a B [4, 2] of ones.
struct File {
  std::string architecture = "gemma4", type = "adapter", kind = "lora";
  float alpha = 8;
  std::string a = "blk.3.ffn_up.weight.lora_a", b = "blk.3.ffn_up.weight.lora_b";
  std::vector<uint64_t> a_dims = {3, 2}, b_dims = {2, 4};
  TensorType data = TensorType::kF32;
  bool alora = false;

  std::vector<std::byte> bytes() const {
    gguf::Writer writer;
    writer.add("general.architecture", architecture);
    writer.add("general.type", type);
    writer.add("adapter.type", kind);
    writer.add("adapter.lora.alpha", alpha);
    if (alora) writer.add_array<uint32_t>("adapter.alora.invocation_tokens", {1});
    const auto add = [&](const std::string& name, const std::vector<uint64_t>& dims) {
      if (name.empty()) return;
      uint64_t elements = 1;
      for (const uint64_t dim : dims) elements *= dim;
      const std::vector<float> ones(elements, 1.0f);
      auto encoded = gguf::encode_block_row(data, ones);
      if (!encoded) std::abort();
      writer.add_tensor(name, dims, data, std::move(*encoded));
    };
    add(a, a_dims);
    add(b, b_dims);
    auto file = writer.finish();
    if (!file) {
      ADD_FAILURE() << file.error().message;
      std::abort();
    }
    return std::move(*file);
  }
};

// The base with W + scale · B A in place of each W, through the reference model, gives the logits
// that another implementation computed with the adapter beside the base.
TEST(GgufLora, FixtureMergedIntoItsBaseGivesTheLogits) {
  const LoraAdapter adapter = must_read(read_fixture("gemma4/tiny-dense-lora.gguf"));
  ASSERT_EQ(adapter.modules.size(), 7u);
  EXPECT_EQ(adapter.rank, 4u);
  EXPECT_EQ(adapter.alpha, 8.0f);
  std::vector<std::byte> base = read_fixture("gemma4/tiny-dense.gguf");
  const auto header = gguf::parse_header(base);
  ASSERT_TRUE(header.has_value());
  const auto config = model::Config::from_gguf(*header);
  ASSERT_TRUE(config.has_value());
  // One of its modules is V of a layer which has V: the check passes.
  const auto status = check(adapter, *config);
  ASSERT_TRUE(status.has_value()) << status.error().message;
  for (const LoraModule& module : adapter.modules) {
    const gguf::TensorInfo* tensor = header->tensor(module_name(module));
    ASSERT_NE(tensor, nullptr);
    ASSERT_EQ(tensor->type, TensorType::kF32);
    for (size_t out = 0; out < module.outputs; ++out) {
      for (size_t in = 0; in < module.inputs; ++in) {
        double sum = 0;
        for (size_t r = 0; r < module.rank; ++r) {
          sum += double{module.b[out * module.rank + r]} * module.a[r * module.inputs + in];
        }
        const size_t at =
            static_cast<size_t>(tensor->offset) + (out * module.inputs + in) * sizeof(float);
        const auto merged =
            static_cast<float>(load<float>(base, at) + scale(adapter, module) * sum);
        std::memcpy(base.data() + at, &merged, sizeof merged);
      }
    }
  }
  const auto model = reference::ReferenceModel::load(*header, base);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  std::vector<uint32_t> ids;
  const Json manifest = reference::read_fixture_json("gemma4/manifest.json");
  for (const Json& id : manifest["tiny-dense"]["ids"]) ids.push_back(id.get<uint32_t>());
  const auto logits = model->forward(ids, {});
  ASSERT_TRUE(logits.has_value()) << logits.error().message;
  const auto expected = reference::read_fixture_floats("gemma4/tiny-dense-lora.logits.f32");
  ASSERT_EQ(logits->size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::abs(double{(*logits)[i]} - expected[i]));
  }
  EXPECT_LT(worst, 1e-4);
}

TEST(GgufLora, EveryTypeIsRead) {
  for (const TensorType type :
       {TensorType::kF32, TensorType::kF16, TensorType::kBF16, TensorType::kQ8_0}) {
    File file{.a_dims = {32, 32}, .b_dims = {32, 4}, .data = type};
    const LoraAdapter adapter = must_read(file.bytes());
    ASSERT_EQ(adapter.modules.size(), 1u);
    EXPECT_EQ(adapter.modules[0].rank, 32u);
    EXPECT_EQ(adapter.modules[0].outputs, 4u);
    for (const float v : adapter.modules[0].a) EXPECT_NEAR(v, 1.0f, 1e-3f);
    EXPECT_EQ(scale(adapter, adapter.modules[0]), 0.25);
  }
}

TEST(GgufLora, AlphaZeroIsAScaleOfOne) {
  const LoraAdapter adapter = must_read(File{.alpha = 0}.bytes());
  EXPECT_EQ(scale(adapter, adapter.modules[0]), 1.0);
}

TEST(GgufLora, WhatIsWrittenIsReadBack) {
  LoraAdapter adapter = make_adapter();
  adapter.modules[1] = make_module(11, kProj, 3, 5, 2);  // a rank of its own needs nothing more
  const auto file = write_gguf_lora(adapter);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(must_read(*file), adapter);
  EXPECT_EQ(*write_gguf_lora(adapter), *file);
}

TEST(GgufLora, KeysAreLlamaCpps) {
  const auto file = write_gguf_lora(make_adapter());
  ASSERT_TRUE(file.has_value());
  const auto header = gguf::parse_header(*file);
  ASSERT_TRUE(header.has_value());
  EXPECT_EQ(header->get_string("general.architecture"), "gemma4");
  EXPECT_EQ(header->get_string("general.type"), "adapter");
  EXPECT_EQ(header->get_string("adapter.type"), "lora");
  EXPECT_EQ(header->get_string("general.name"), "capitals");
  EXPECT_EQ(header->get_u32("general.base_model.count"), 1u);
  EXPECT_EQ(header->get_string("general.base_model.0.name"), "nano");
  EXPECT_EQ(header->get_float("adapter.lora.alpha"), 16.0);
  const gguf::TensorInfo* a = header->tensor("blk.0.attn_q.weight.lora_a");
  const gguf::TensorInfo* b = header->tensor("blk.0.attn_q.weight.lora_b");
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->dims, (std::array<uint64_t, 4>{3, 2, 1, 1}));
  EXPECT_EQ(b->dims, (std::array<uint64_t, 4>{2, 4, 1, 1}));
}

// rsLoRA and alphas that differ have no key: the products scale · B stay what they were.
TEST(GgufLora, OtherScalesAreFolded) {
  LoraAdapter adapter = make_adapter();
  adapter.rs_lora = true;
  adapter.modules[1] = make_module(11, kProj, 3, 5, 2, 5);
  const auto file = write_gguf_lora(adapter);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  const LoraAdapter read = must_read(*file);
  EXPECT_FALSE(read.rs_lora);
  for (size_t i = 0; i < adapter.modules.size(); ++i) {
    const LoraModule& before = adapter.modules[i];
    const LoraModule& after = read.modules[i];
    EXPECT_EQ(after.a, before.a);
    for (size_t k = 0; k < before.b.size(); ++k) {
      const double expected = scale(adapter, before) * before.b[k];
      EXPECT_NEAR(scale(read, after) * after.b[k], expected, 2e-7 * std::abs(expected));
    }
  }
  EXPECT_EQ(read.modules[0].b, adapter.modules[0].b);
}

TEST(GgufLora, ScalesThatNoFloatHoldsAreRefused) {
  LoraAdapter adapter = make_adapter();
  adapter.rs_lora = true;
  adapter.modules[0].alpha = 3e38f;
  expect_error(write_gguf_lora(adapter), kUnsupported, "alpha is too large");
  adapter = make_adapter();
  adapter.modules[0].alpha = 1e-10f;
  adapter.modules[1].alpha = 3e38f;
  expect_error(write_gguf_lora(adapter), kUnsupported, "blk.11.proj.weight: its scale");
}

TEST(GgufLora, FilesThatCannotBeAppliedAreRefusedByName) {
  struct Case {
    File file;
    ErrorCode code;
    std::string_view text;
  };
  const Case cases[] = {
      {{.architecture = "llama"}, kUnsupported, "'general.architecture' is 'llama'"},
      {{.type = "model"}, kUnsupported, "'general.type' is 'model'"},
      {{.kind = "dora"}, kUnsupported, "'adapter.type' is 'dora'"},
      {{.alpha = -1}, kInvalidFormat, "alpha -1"},
      {{.alpha = INFINITY}, kInvalidFormat, "out of range"},
      {{.alpha = NAN}, kInvalidFormat, "out of range"},
      {{.a = "blk.3.ffn_norm.weight"},
       kUnsupported,
       "'blk.3.ffn_norm.weight' is not a LoRA matrix"},
      {{.a = "blk.3.ffn_norm.weight.lora_a"}, kUnsupported, "cannot change here"},
      {{.a = "token_embd.weight.lora_a"}, kUnsupported, "token_embd"},
      {{.a = "blk.256.ffn_up.weight.lora_a"}, kUnsupported, "blk.256"},
      {{.a = "blk.03.ffn_up.weight.lora_a"}, kUnsupported, "blk.03"},
      {{.a = ""}, kInvalidFormat, "has no A"},
      {{.b = ""}, kInvalidFormat, "has no B"},
      {{.a = "", .b = ""}, kInvalidFormat, "changes no matrix"},
      {{.b_dims = {3, 4}}, kInvalidFormat, "A has rank 2, but B 3"},
      {{.a_dims = {3, 1025}}, kUnsupported, "rank 1025"},
      {{.a_dims = {3, 2, 2}}, kUnsupported, "over 2 dimensions"},
      {{.a_dims = {32, 2}, .b_dims = {32, 1}, .data = TensorType::kQ4_0}, kUnsupported, "Q4_0"},
      {{.alora = true}, kUnsupported, "alora"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    expect_error(read_gguf_lora(c.file.bytes()), c.code, c.text);
  }
  expect_error(read_gguf_lora(read_fixture("gemma4/tiny-dense.gguf")), kUnsupported,
               "'general.type'");
}

TEST(GgufLora, EveryTruncationIsAnError) {
  const auto file = write_gguf_lora(make_adapter());
  ASSERT_TRUE(file.has_value());
  // The last tensor's data end before the padding does.
  const size_t padding = 32 - (2 * 6 * sizeof(float)) % 32;
  for (size_t size = 0; size < file->size() - padding; ++size) {
    const std::vector<std::byte> cut(file->begin(), file->begin() + static_cast<ptrdiff_t>(size));
    EXPECT_FALSE(read_gguf_lora(cut).has_value()) << size;
  }
}

}  // namespace
}  // namespace lapidary::adapter
