// PEFT's files: the fixture's values, round trips, and each refusal by code and text.
#include "engine/adapter/peft.h"

#include <gtest/gtest.h>

#include "engine/adapter/gguf_lora.h"
#include "engine/adapter/safetensors.h"
#include "engine/adapter/test_adapter.h"

namespace lapidary::adapter {
namespace {

using enum ErrorCode;
using enum model::TensorRole;
using reference::read_fixture;

std::string fixture_config_text() {
  const auto bytes = read_fixture("nano-lora/adapter_config.json");
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

LoraAdapter must_read(Bytes model, std::string_view config) {
  auto adapter = read_peft(model, config);
  if (!adapter) {
    ADD_FAILURE() << adapter.error().message;
    std::abort();
  }
  return std::move(*adapter);
}

// The names of one module, A [2, 3] and B [4, 2], all ones.
std::vector<std::byte> one_module(std::string_view a, std::string_view b,
                                  std::vector<uint64_t> a_shape = {2, 3},
                                  std::vector<uint64_t> b_shape = {4, 2}) {
  static const std::vector<float> ones(1 << 16, 1.0f);
  const auto size = [](const std::vector<uint64_t>& shape) {
    size_t n = 1;
    for (const uint64_t dim : shape) n *= dim;
    return n;
  };
  std::vector<SafetensorsOutput> tensors;
  if (!a.empty())
    tensors.push_back({std::string(a), a_shape, std::span(ones).first(size(a_shape))});
  if (!b.empty())
    tensors.push_back({std::string(b), b_shape, std::span(ones).first(size(b_shape))});
  return *write_safetensors(tensors, {});
}

constexpr std::string_view kA = "base_model.model.model.layers.3.mlp.up_proj.lora_A.weight";
constexpr std::string_view kB = "base_model.model.model.layers.3.mlp.up_proj.lora_B.weight";
constexpr std::string_view kConfig = R"({"peft_type": "LORA", "r": 2, "lora_alpha": 8})";

// kConfig with more members.
std::string config_with(std::string_view members) {
  return replaced(std::string(kConfig), "}", cat(", ", members, "}"));
}

TEST(Peft, FixtureHoldsWhatLlamaCppsFormHolds) {
  const LoraAdapter peft =
      must_read(read_fixture("nano-lora/part.safetensors"), fixture_config_text());
  const auto gguf = read_gguf_lora(read_fixture("nano-lora/part-lora.gguf"));
  ASSERT_TRUE(gguf.has_value()) << gguf.error().message;
  EXPECT_EQ(peft.rank, 8u);
  EXPECT_EQ(peft.alpha, 16.0f);
  EXPECT_EQ(peft.base_model, "nano");
  ASSERT_EQ(peft.modules.size(), 7u);
  EXPECT_EQ(module_name(peft.modules[3]), "blk.2.attn_output.weight");
  EXPECT_EQ(peft.modules[3].inputs, 512u);
  EXPECT_EQ(peft.modules[3].outputs, 256u);
  EXPECT_EQ(scale(peft, peft.modules[0]), 2.0);
  EXPECT_EQ(peft.modules, gguf->modules);
  const auto status = check(peft, fixture_config("nano/nano-f16.gguf.gz"));
  EXPECT_TRUE(status.has_value()) << status.error().message;
}

TEST(Peft, ValuesLieWhereTheFileHasThem) {
  const auto file = read_fixture("nano-lora/part.safetensors");
  const LoraAdapter adapter = must_read(file, fixture_config_text());
  const auto parsed = parse_safetensors(file);
  ASSERT_TRUE(parsed.has_value());
  size_t seen = 0;
  for (const SafetensorsEntry& tensor : parsed->tensors) {
    if (!tensor.name.contains("layers.5.mlp.down_proj")) continue;
    const LoraModule& module = adapter.modules.back();
    const auto& values = tensor.name.contains("lora_A") ? module.a : module.b;
    EXPECT_EQ(to_floats(tensor), values);
    ++seen;
  }
  EXPECT_EQ(seen, 2u);
}

TEST(Peft, RoundTripThroughGgufIsBitEqual) {
  LoraAdapter adapter =
      must_read(read_fixture("nano-lora/part.safetensors"), fixture_config_text());
  adapter.name = "three steps";
  for (const PeftNames names : {PeftNames::kText, PeftNames::kMultimodal}) {
    const auto first = write_peft(adapter, names);
    ASSERT_TRUE(first.has_value()) << first.error().message;
    const LoraAdapter one = must_read(first->model, first->config);
    EXPECT_EQ(one, adapter);
    const auto gguf = write_gguf_lora(one);
    ASSERT_TRUE(gguf.has_value()) << gguf.error().message;
    const auto two = read_gguf_lora(*gguf);
    ASSERT_TRUE(two.has_value()) << two.error().message;
    EXPECT_EQ(*two, adapter);
    const auto last = write_peft(*two, names);
    ASSERT_TRUE(last.has_value());
    EXPECT_EQ(last->model, first->model);
    EXPECT_EQ(last->config, first->config);
  }
}

TEST(Peft, RanksAndAlphasOfTheirOwnComeBack) {
  LoraAdapter adapter = make_adapter();
  adapter.rs_lora = true;
  adapter.modules[1] = make_module(11, kProj, 3, 5, 2, 0.1f);
  adapter.modules[2].alpha = 1e30f;
  for (const PeftNames names : {PeftNames::kText, PeftNames::kMultimodal}) {
    const auto files = write_peft(adapter, names);
    ASSERT_TRUE(files.has_value());
    EXPECT_EQ(must_read(files->model, files->config), adapter);
  }
}

TEST(Peft, ConfigIsWrittenAsPeftWritesIt) {
  const auto files = write_peft(make_adapter());
  ASSERT_TRUE(files.has_value());
  const auto config = parse_json(files->config, "config");
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ((*config)["peft_type"], "LORA");
  EXPECT_EQ((*config)["lora_alpha"].dump(), "16");
  EXPECT_EQ((*config)["target_modules"].dump(), R"(["q_proj","per_layer_projection","lm_head"])");
  const auto multimodal = write_peft(make_adapter(), PeftNames::kMultimodal);
  EXPECT_TRUE(multimodal->config.contains("\"model.language_model.layers.0.self_attn.q_proj\""));
}

TEST(Peft, NamesInUse) {
  for (const std::string_view layers :
       {"model.layers.", "model.language_model.layers.", "language_model.model.layers."}) {
    for (const std::string_view end : {".weight", ".default.weight"}) {
      const auto name = [&](char half) {
        return cat("base_model.model.", layers, "3.mlp.up_proj.lora_", half, end);
      };
      const LoraAdapter adapter = must_read(one_module(name('A'), name('B')), kConfig);
      EXPECT_EQ(module_name(adapter.modules[0]), "blk.3.ffn_up.weight");
    }
  }
  const LoraAdapter head = must_read(one_module("base_model.model.lm_head.lora_A.weight",
                                                "base_model.model.lm_head.lora_B.weight"),
                                     kConfig);
  EXPECT_EQ(module_name(head.modules[0]), "output.weight");
}

TEST(Peft, PatternsChooseByTheEndOfAName) {
  const auto file = one_module(kA, kB);
  const auto alpha = [&](std::string_view patterns) {
    return must_read(file, config_with(cat("\"alpha_pattern\": {", patterns, "}")))
        .modules[0]
        .alpha;
  };
  EXPECT_EQ(alpha(R"("up_proj": 3)"), 3.0f);
  EXPECT_EQ(alpha(R"("layers.3.mlp.up_proj": 3.5, "up_proj": 4)"), 3.5f);
  EXPECT_EQ(alpha(R"("^model.layers.3.mlp.up_proj": 3)"), 3.0f);
  EXPECT_EQ(alpha(R"("^up_proj": 3)"), 8.0f);
  EXPECT_EQ(alpha(R"("p_proj": 3)"), 8.0f);
  EXPECT_EQ(must_read(file, R"({"peft_type": "LORA", "r": 8, "lora_alpha": 8,
                               "rank_pattern": {"up_proj": 2}})")
                .modules[0]
                .rank,
            2u);
}

TEST(Peft, ConfigsThatCannotBeAppliedAreRefusedByName) {
  struct Case {
    std::string config;
    ErrorCode code;
    std::string_view text;
  };
  const Case cases[] = {
      {"", kInvalidFormat, "not valid JSON"},
      {"[]", kInvalidFormat, "not a JSON object"},
      {"{}", kInvalidFormat, "'peft_type' is missing"},
      {R"({"peft_type": "IA3"})", kUnsupported, "'IA3'"},
      {R"({"peft_type": "LORA"})", kInvalidFormat, "'r' is missing"},
      {R"({"peft_type": "LORA", "r": 2})", kInvalidFormat, "'lora_alpha' is missing"},
      {R"({"peft_type": "LORA", "r": -2})", kInvalidFormat, "'r' is not a positive"},
      {R"({"peft_type": "LORA", "r": 2.5})", kInvalidFormat, "'r' is not a positive"},
      {R"({"peft_type": "LORA", "r": 1025})", kUnsupported, "at most 1024"},
      {R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8})", kInvalidFormat,
       "has rank 2, but adapter_config.json says 4"},
      {R"({"peft_type": "LORA", "r": 2, "lora_alpha": "8"})", kInvalidFormat, "not a number"},
      {R"({"peft_type": "LORA", "r": 2, "lora_alpha": 0})", kInvalidFormat, "alpha 0"},
      {R"({"peft_type": "LORA", "r": 2, "lora_alpha": 1e99})", kInvalidFormat, "too large"},
      {config_with(R"("use_dora": true)"), kUnsupported, "'use_dora'"},
      {config_with(R"("use_qalora": true)"), kUnsupported, "'use_qalora'"},
      {config_with(R"("bias": "all")"), kUnsupported, "'bias'"},
      {config_with(R"("lora_bias": true)"), kUnsupported, "'lora_bias'"},
      {config_with(R"("modules_to_save": ["lm_head"])"), kUnsupported, "'modules_to_save'"},
      {config_with(R"("layer_replication": [[0, 2]])"), kUnsupported, "'layer_replication'"},
      {config_with(R"("target_parameters": ["x"])"), kUnsupported, "'target_parameters'"},
      {config_with(R"("fan_in_fan_out": true)"), kUnsupported, "'fan_in_fan_out'"},
      {config_with(R"("init_lora_weights": "pissa_niter_4")"), kUnsupported, "'pissa_niter_4'"},
      {config_with(R"("target_modules": ["q_proj", "embed_tokens"])"), kUnsupported,
       "target module 'embed_tokens'"},
      {config_with(R"("target_modules": 5)"), kInvalidFormat, "not a list"},
      {config_with(R"("target_modules": [5])"), kInvalidFormat, "other than names"},
      {config_with(R"("use_rslora": 1)"), kInvalidFormat, "'use_rslora'"},
      {config_with(R"("rank_pattern": [1])"), kInvalidFormat, "'rank_pattern' is not an object"},
      {config_with(R"("rank_pattern": {"up_proj": "2"})"), kInvalidFormat, "'up_proj'"},
      {config_with(R"("rank_pattern": {"up_proj": 4})"), kInvalidFormat, "says 4"},
      {config_with(R"("rank_pattern": {".*up_proj": 2})"), kUnsupported, "only plain names"},
      {config_with(R"("alpha_pattern": {"": 2})"), kUnsupported, "only plain names"},
      {std::string(kMaxPeftConfigBytes + 1, ' '), kUnsupported, "at most 262144"},
  };
  const auto file = one_module(kA, kB);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.config.substr(0, 200));
    expect_error(read_peft(file, c.config), c.code, c.text);
  }
}

TEST(Peft, WhatIsOffIsNoReasonToRefuse) {
  const auto adapter = must_read(
      one_module(kA, kB),
      config_with(R"("use_dora": false, "use_rslora": null, "bias": "none", "modules_to_save": null,
        "rank_pattern": {}, "alpha_pattern": null, "target_modules": "all-linear",
        "init_lora_weights": true, "layer_replication": null, "lora_bias": false)"));
  EXPECT_FALSE(adapter.rs_lora);
}

TEST(Peft, TensorsThatCannotBeAppliedAreRefusedByName) {
  struct Case {
    std::string a, b;
    ErrorCode code;
    std::string_view text;
  };
  const auto in_layer = [](std::string_view rest) {
    return cat("base_model.model.model.layers.", rest);
  };
  const std::string a(kA), b(kB);
  const Case cases[] = {
      {a, "", kInvalidFormat, "blk.3.ffn_up.weight has no B"},
      {"", b, kInvalidFormat, "blk.3.ffn_up.weight has no A"},
      {"", "", kInvalidFormat, "changes no matrix"},
      {a, replaced(a, ".weight", ".default.weight"), kInvalidFormat, "under two names"},
      {in_layer("0.self_attn.q_proj.lora_magnitude_vector"), b, kUnsupported, "belongs to DoRA"},
      {"base_model.model.model.embed_tokens.lora_embedding_A", b, kUnsupported, "an embedding"},
      {in_layer("0.self_attn.q_proj.bias"), b, kUnsupported, "is not a LoRA matrix"},
      {in_layer("0.self_attn.q_proj.base_layer.weight"), b, kUnsupported, "is not a LoRA matrix"},
      {"model.layers.0.self_attn.q_proj.lora_A.weight", b, kUnsupported, "not below"},
      {in_layer("x.self_attn.q_proj.lora_A.weight"), b, kUnsupported, "names no layer"},
      {in_layer("256.self_attn.q_proj.lora_A.weight"), b, kUnsupported, "names no layer"},
      {in_layer("0.lora_A.weight"), b, kUnsupported, "names no layer"},
      {in_layer("0.router.proj.lora_A.weight"), b, kUnsupported, "cannot change here"},
      {"base_model.model.model.vision_tower.x.lora_A.weight", b, kUnsupported, "vision_tower"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.a);
    expect_error(read_peft(one_module(c.a, c.b), kConfig), c.code, c.text);
  }
  expect_error(read_peft(one_module(kA, kB, {2, 3}, {4, 3}), kConfig), kInvalidFormat,
               "A has rank 2, but B 3");
  expect_error(read_peft(one_module(kA, kB, {2, 3, 1}), kConfig), kInvalidFormat, "3 dimensions");
  expect_error(read_peft(one_module(kA, kB, {1025, 3}), kConfig), kUnsupported, "rank 1025");
  expect_error(read_peft(one_module(kA, kB, {0, 3}), kConfig), kInvalidFormat, "shape [0, 3]");
}

TEST(Peft, EveryTruncationIsAnError) {
  const auto files = write_peft(make_adapter());
  ASSERT_TRUE(files.has_value());
  for (size_t size = 0; size < files->model.size(); ++size) {
    // A copy of that very size, so that a read past it is seen.
    const std::vector<std::byte> cut(files->model.begin(),
                                     files->model.begin() + static_cast<ptrdiff_t>(size));
    expect_error(read_peft(cut, files->config), kTruncated, "safetensors");
  }
  // Without its line end the config is whole.
  for (size_t size = 0; size + 1 < files->config.size(); ++size) {
    EXPECT_FALSE(read_peft(files->model, files->config.substr(0, size)).has_value());
  }
}

}  // namespace
}  // namespace lapidary::adapter
