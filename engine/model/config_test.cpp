// Config and check_tensors: what the fixtures hold, and that damaged or foreign files are
// refused by name.
#include "engine/model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "engine/model/tensor_table.h"
#include "engine/model/test_config.h"

namespace lapidary::model {
namespace {

TEST(Config, Nano) {
  for (const std::string_view path :
       {"nano/nano-f16.gguf.gz",
        "models/blobs/sha256-5a3f7d0cb69d6eb360230082189a797bb41547f35057d88270de2660ab83059c"}) {
    const Config c = config_of(path);
    EXPECT_EQ(c.family, "custom");
    EXPECT_EQ(c.hidden, 256u);
    EXPECT_EQ(c.heads, 4u);
    EXPECT_EQ(c.vocab, 2048u);
    EXPECT_EQ(c.context_length, 2048u);
    EXPECT_EQ(c.window, 128u);
    EXPECT_EQ(c.per_layer_dim, 256u);
    EXPECT_FLOAT_EQ(c.rms_eps, 1e-6f);
    EXPECT_EQ(c.softcap, 30.0f);
    EXPECT_EQ(c.rope_sliding.theta, 1e4f);
    EXPECT_EQ(c.rope_global.theta, 1e6f);
    EXPECT_EQ(c.rope_sliding.dims, 64u);
    EXPECT_EQ(c.rope_global.dims, 128u);
    EXPECT_EQ(c.experts.count, 0u);
    EXPECT_FALSE(c.image_bidirectional);
    EXPECT_EQ(c.eos_tokens, (std::vector<uint32_t>{1, 50, 106}));
    ASSERT_EQ(c.layers.size(), 6u);
    const uint32_t sources[] = {0, 1, 2, 1, 1, 2};
    for (uint32_t i = 0; i < 6; ++i) {
      const LayerConfig& layer = c.layers[i];
      EXPECT_EQ(layer.sliding, i % 3 != 2) << i;
      EXPECT_EQ(layer.head_dim, i % 3 != 2 ? 64u : 128u) << i;
      EXPECT_EQ(layer.kv_heads, 1u);
      EXPECT_EQ(layer.ffn, i < 3 ? 256u : 512u) << i;
      EXPECT_EQ(layer.shares_kv, i >= 3) << i;
      EXPECT_EQ(layer.kv_source, sources[i]) << i;
      EXPECT_FALSE(layer.v_from_k);
    }
  }
}

TEST(Config, DenseAndExperts) {
  const Config dense = config_of("gemma4/tiny-dense.gguf");
  EXPECT_TRUE(dense.image_bidirectional);
  EXPECT_EQ(dense.layers[0].kv_heads, 2u);
  EXPECT_FALSE(dense.layers[0].v_from_k);
  EXPECT_EQ(dense.layers[2].kv_heads, 1u);
  EXPECT_TRUE(dense.layers[2].v_from_k);
  EXPECT_EQ(dense.layers[2].kv_width(), 16u);
  EXPECT_EQ(dense.q_width(dense.layers[2]), 64u);
  const Config moe = config_of("gemma4/tiny-moe.gguf");
  EXPECT_EQ(moe.experts.count, 8u);
  EXPECT_EQ(moe.experts.used, 2u);
  EXPECT_EQ(moe.experts.ffn, 16u);
}

TEST(Config, AcceptsOtherProducersForms) {
  // Integers of other types, a scalar where an array may stand, keys left to their defaults, a list
  // of eos ids.
  EXPECT_EQ(
      load_error("tiny-dense",
                 {.metadata = {{"gemma4.block_count", int32_t{6}},
                               {"gemma4.attention.head_count", std::vector<int32_t>(6, 4)},
                               {"gemma4.attention.shared_kv_layers", {}},
                               {"gemma4.embedding_length_per_layer_input", {}},
                               {"gemma4.rope.freq_base_swa", {}},
                               {"gemma4.rope.dimension_count", {}},
                               {"gemma4.final_logit_softcapping", {}},
                               {"tokenizer.ggml.eos_token_ids", std::vector<int32_t>{1, 6}},
                               {"tokenizer.ggml.suppress_tokens", std::vector<int32_t>{9, 3, 9}}}})
          .message,
      "");
  // The expert tensors' older names, and tensors of other towers.
  Edits moe;
  for (int layer = 0; layer < 4; ++layer) {
    const std::string blk = cat("blk.", layer, ".");
    moe.renames[blk + "ffn_down_exps.scale"] = blk + "ffn_gate_inp.per_expert_scale";
    moe.tensors[blk + "ffn_gate_up_exps.weight"] = std::nullopt;
    moe.tensors[blk + "ffn_gate_exps.weight"] = Edits::Tensor{{32, 16, 8}};
    moe.tensors[blk + "ffn_up_exps.weight"] = Edits::Tensor{{32, 16, 8}};
  }
  moe.tensors["v.patch_embd.weight"] = Edits::Tensor{{16, 16, 3, 8}};
  moe.tensors["mm.a.fc.bias"] = Edits::Tensor{{8}};
  EXPECT_EQ(load_error("tiny-moe", moe).message, "");
  // Sharing layers may carry K/V of any shape: nobody reads them.
  EXPECT_EQ(
      load_error("tiny-e", {.tensors = {{"blk.5.attn_k.weight", Edits::Tensor{{32, 9}}}}}).message,
      "");
}

TEST(Config, RefusesDamagedAndForeignFiles) {
  const Edits::Tensor small{{32, 8}};
  const std::vector<Hostile> table = {
      {"llama",
       "tiny-e",
       {.metadata = {{"general.architecture", "llama"}}},
       ErrorCode::kUnsupported,
       "architecture \"llama\" is not supported: this engine runs Gemma 4"},
      {"gemma3",
       "tiny-e",
       {.metadata = {{"general.architecture", "gemma3"}}},
       ErrorCode::kUnsupported,
       "\"gemma3\" (an earlier Gemma"},
      {"embedding",
       "tiny-e",
       {.metadata = {{"general.architecture", "gemma-embedding"}}},
       ErrorCode::kUnsupported,
       "EmbeddingGemma"},
      {"drafter",
       "tiny-e",
       {.metadata = {{"general.architecture", "gemma4-assistant"}}},
       ErrorCode::kUnsupported,
       "drafter"},
      {"projector",
       "tiny-e",
       {.metadata = {{"general.architecture", "clip"}}},
       ErrorCode::kUnsupported,
       "projector"},
      {"adapter",
       "tiny-e",
       {.metadata = {{"general.type", "adapter"}}},
       ErrorCode::kUnsupported,
       "adapter"},
      {"no architecture",
       "tiny-e",
       {.metadata = {{"general.architecture", {}}}},
       ErrorCode::kNotFound,
       "general.architecture"},
      {"control bytes",
       "tiny-e",
       {.metadata = {{"general.architecture", "a\x1b[2J"}}},
       ErrorCode::kUnsupported,
       "\"a?[2J\""},
      {"no layers",
       "tiny-e",
       {.metadata = {{"gemma4.block_count", 0u}}},
       ErrorCode::kInvalidFormat,
       "gemma4.block_count is 0, expected 1 to 256"},
      {"many layers",
       "tiny-e",
       {.metadata = {{"gemma4.block_count", 4000000000u}}},
       ErrorCode::kInvalidFormat,
       "4000000000"},
      {"layers negative",
       "tiny-e",
       {.metadata = {{"gemma4.block_count", int32_t{-7}}}},
       ErrorCode::kInvalidFormat,
       "gemma4.block_count"},
      {"layers text",
       "tiny-e",
       {.metadata = {{"gemma4.block_count", "seven"}}},
       ErrorCode::kInvalidFormat,
       "gemma4.block_count"},
      {"one layer more",
       "tiny-e",
       {.metadata = {{"gemma4.block_count", 8u}}},
       ErrorCode::kInvalidFormat,
       "7"},
      {"short pattern",
       "tiny-e",
       {.metadata = {{"gemma4.attention.sliding_window_pattern", std::vector<bool>{true, false}}}},
       ErrorCode::kInvalidFormat,
       "sliding_window_pattern"},
      {"no pattern",
       "tiny-e",
       {.metadata = {{"gemma4.attention.sliding_window_pattern", {}}}},
       ErrorCode::kNotFound,
       "sliding_window_pattern"},
      {"hidden",
       "tiny-e",
       {.metadata = {{"gemma4.embedding_length", 1u << 30}}},
       ErrorCode::kInvalidFormat,
       "gemma4.embedding_length"},
      {"odd hidden",
       "tiny-e",
       {.metadata = {{"gemma4.embedding_length", 33u}}},
       ErrorCode::kInvalidFormat,
       "multiple of 4"},
      {"heads zero",
       "tiny-e",
       {.metadata = {{"gemma4.attention.head_count", 0u}}},
       ErrorCode::kInvalidFormat,
       "head_count"},
      {"heads vary",
       "tiny-e",
       {.metadata = {{"gemma4.attention.head_count", std::vector<int32_t>{4, 4, 4, 2, 4, 4, 4}}}},
       ErrorCode::kUnsupported,
       "head_count differs"},
      {"kv heads",
       "tiny-e",
       {.metadata = {{"gemma4.attention.head_count_kv", 3u}}},
       ErrorCode::kInvalidFormat,
       "4 query heads cannot share 3 KV heads"},
      {"kv heads zero",
       "tiny-e",
       {.metadata = {{"gemma4.attention.head_count_kv", 0u}}},
       ErrorCode::kInvalidFormat,
       "head_count_kv is 0"},
      {"kv heads of sharers",
       "tiny-e",
       {.metadata = {{"gemma4.attention.head_count_kv",
                      std::vector<int32_t>{1, 1, 1, 1, 1, 2, 1}}}},
       ErrorCode::kInvalidFormat,
       "layer 5 has 2 KV heads, but shares the K/V of layer 2"},
      {"all share",
       "tiny-e",
       {.metadata = {{"gemma4.attention.shared_kv_layers", 7u}}},
       ErrorCode::kInvalidFormat,
       "shared_kv_layers is 7"},
      {"nothing to share",
       "tiny-e",
       {.metadata = {{"gemma4.attention.shared_kv_layers", 5u}}},
       ErrorCode::kInvalidFormat,
       "layer 3 shares K/V, but none of the 2 layers"},
      {"head size",
       "tiny-e",
       {.metadata = {{"gemma4.attention.key_length", 1024u}}},
       ErrorCode::kInvalidFormat,
       "gemma4.attention.key_length is 1024, expected 4 to 512"},
      {"odd head size",
       "tiny-e",
       {.metadata = {{"gemma4.attention.key_length_swa", 7u}}},
       ErrorCode::kInvalidFormat,
       "multiple of 4"},
      {"value size",
       "tiny-e",
       {.metadata = {{"gemma4.attention.value_length", 8u}}},
       ErrorCode::kUnsupported,
       "value_length is 8"},
      {"rope size",
       "tiny-e",
       {.metadata = {{"gemma4.rope.dimension_count", 8u}}},
       ErrorCode::kUnsupported,
       "rope.dimension_count is 8"},
      {"theta",
       "tiny-e",
       {.metadata = {{"gemma4.rope.freq_base", 0.0f}}},
       ErrorCode::kInvalidFormat,
       "freq_base"},
      {"theta nan",
       "tiny-e",
       {.metadata = {{"gemma4.rope.freq_base_swa", std::nanf("")}}},
       ErrorCode::kInvalidFormat,
       "freq_base_swa is nan"},
      {"eps",
       "tiny-e",
       {.metadata = {{"gemma4.attention.layer_norm_rms_epsilon", -1.0f}}},
       ErrorCode::kInvalidFormat,
       "epsilon"},
      {"softcap",
       "tiny-e",
       {.metadata = {{"gemma4.final_logit_softcapping", -30.0f}}},
       ErrorCode::kInvalidFormat,
       "softcapping"},
      {"window",
       "tiny-e",
       {.metadata = {{"gemma4.attention.sliding_window", 0u}}},
       ErrorCode::kInvalidFormat,
       "sliding_window is 0"},
      {"ffn",
       "tiny-e",
       {.metadata = {{"gemma4.feed_forward_length", std::vector<int32_t>(7, 50)}}},
       ErrorCode::kInvalidFormat,
       "multiple of 4"},
      {"context",
       "tiny-e",
       {.metadata = {{"gemma4.context_length", 0u}}},
       ErrorCode::kInvalidFormat,
       "context_length"},
      {"vocabulary",
       "tiny-e",
       {.tensors = {{"token_embd.weight", Edits::Tensor{{32, 294}}}}},
       ErrorCode::kInvalidFormat,
       "lists 295 tokens, but token_embd.weight has 294 rows"},
      {"eos",
       "tiny-e",
       {.metadata = {{"tokenizer.ggml.eos_token_id", 295u}}},
       ErrorCode::kInvalidFormat,
       "names token 295"},
      {"suppress",
       "tiny-e",
       {.metadata = {{"tokenizer.ggml.suppress_tokens", std::vector<int32_t>{1000}}}},
       ErrorCode::kInvalidFormat,
       "names token 1000"},
      {"no embeddings",
       "tiny-e",
       {.tensors = {{"token_embd.weight", {}}}},
       ErrorCode::kNotFound,
       "token_embd.weight is missing"},
      {"missing matrix",
       "tiny-e",
       {.tensors = {{"blk.2.ffn_down.weight", {}}}},
       ErrorCode::kNotFound,
       "tensor blk.2.ffn_down.weight [48, 32] is missing"},
      {"missing norm",
       "tiny-dense",
       {.tensors = {{"output_norm.weight", {}}}},
       ErrorCode::kNotFound,
       "tensor output_norm.weight [32] is missing"},
      {"missing v",
       "tiny-e",
       {.tensors = {{"blk.3.attn_v.weight", {}}}},
       ErrorCode::kNotFound,
       "blk.3.attn_v.weight"},
      {"missing sliding v",
       "tiny-dense",
       {.tensors = {{"blk.1.attn_v.weight", {}}}},
       ErrorCode::kNotFound,
       "blk.1.attn_v.weight"},
      {"v on one global layer only",
       "tiny-dense",
       {.tensors = {{"blk.2.attn_v.weight", Edits::Tensor{{32, 16}}}}},
       ErrorCode::kNotFound,
       "blk.5.attn_v.weight"},
      {"wrong shape",
       "tiny-e",
       {.tensors = {{"blk.0.attn_q.weight", small}}},
       ErrorCode::kInvalidFormat,
       "tensor blk.0.attn_q.weight has shape [32, 8], but the model's metadata ask for [32, 32]"},
      {"wrong rank",
       "tiny-e",
       {.tensors = {{"blk.0.attn_q.weight", Edits::Tensor{{32, 32, 2}}}}},
       ErrorCode::kInvalidFormat,
       "[32, 32, 2]"},
      {"wrong rope",
       "tiny-e",
       {.tensors = {{"rope_freqs.weight", Edits::Tensor{{16}}}}},
       ErrorCode::kInvalidFormat,
       "rope_freqs.weight has shape [16]"},
      {"matrix type",
       "tiny-e",
       {.tensors = {{"blk.0.attn_q.weight", Edits::Tensor{{32, 32}, TensorType::kI32}}}},
       ErrorCode::kUnsupported,
       "blk.0.attn_q.weight [32, 32] is of type I32"},
      {"vector type",
       "tiny-e",
       {.tensors = {{"blk.0.attn_norm.weight", Edits::Tensor{{32}, TensorType::kQ8_0}}}},
       ErrorCode::kUnsupported,
       "blk.0.attn_norm.weight [32] is of type Q8_0, expected F32, F16 or BF16"},
  };
  expect_refused(table);
}

// The published sizes (gemma4.md §1.1) as metadata, with the one tensor that from_gguf needs and no
// data.
TEST(Config, NamesThePublishedModels) {
  struct Published {
    const char* family;
    uint32_t hidden, layers, ffn, heads, kv_sliding, kv_global, period, shared, per_layer, experts;
  };
  for (const Published& p : {Published{"E2B", 1536, 35, 6144, 8, 1, 1, 5, 20, 256, 0},
                             Published{"E4B", 2560, 42, 10240, 8, 2, 2, 6, 18, 256, 0},
                             Published{"12B", 3840, 48, 15360, 16, 8, 1, 6, 0, 0, 0},
                             Published{"26B-A4B", 2816, 30, 2112, 16, 8, 2, 6, 0, 0, 128},
                             Published{"31B", 5376, 60, 21504, 32, 16, 4, 6, 0, 0, 0}}) {
    std::vector<int32_t> kv(p.layers), ffn(p.layers);
    std::vector<bool> pattern(p.layers);
    for (uint32_t i = 0; i < p.layers; ++i) {
      pattern[i] = i % p.period != p.period - 1;
      kv[i] = static_cast<int32_t>(pattern[i] ? p.kv_sliding : p.kv_global);
      ffn[i] = static_cast<int32_t>(p.shared == 20 && i >= 15 ? 2 * p.ffn : p.ffn);
    }
    gguf::Writer writer;
    const std::pair<const char*, Entry> entries[] = {
        {"general.architecture", "gemma4"},
        {"gemma4.block_count", p.layers},
        {"gemma4.context_length", 131072u},
        {"gemma4.embedding_length", p.hidden},
        {"gemma4.feed_forward_length", ffn},
        {"gemma4.attention.head_count", p.heads},
        {"gemma4.attention.head_count_kv", kv},
        {"gemma4.attention.key_length", 512u},
        {"gemma4.attention.key_length_swa", 256u},
        {"gemma4.attention.layer_norm_rms_epsilon", 1e-6f},
        {"gemma4.attention.sliding_window", 512u},
        {"gemma4.attention.sliding_window_pattern", pattern},
        {"gemma4.attention.shared_kv_layers", p.shared},
        {"gemma4.embedding_length_per_layer_input", p.per_layer},
        {"gemma4.final_logit_softcapping", 30.0f},
        {"gemma4.rope.freq_base", 1e6f},
        {"gemma4.expert_count", p.experts},
        {"gemma4.expert_used_count", 8u},
        {"gemma4.expert_feed_forward_length", 704u},
    };
    for (const auto& [key, entry] : entries) write_entry(writer, key, entry);
    const uint64_t dims[] = {p.hidden, 128};
    writer.add_tensor("token_embd.weight", dims, TensorType::kF16,
                      std::vector<std::byte>(p.hidden * 256));
    const auto file = writer.finish();
    ASSERT_TRUE(file.has_value()) << file.error().message;
    const gguf::Header header = parse(*file);
    const Result<Config> config = Config::from_gguf(header);
    ASSERT_TRUE(config.has_value()) << config.error().message;
    EXPECT_EQ(config->family, p.family);
    EXPECT_EQ(config->layers.back().kv_source, p.shared == 20   ? 14u
                                               : p.shared == 18 ? 23u
                                                                : p.layers - 1)
        << p.family;
    EXPECT_EQ(config->layers[p.layers - 2].kv_source, p.shared == 20   ? 13u
                                                      : p.shared == 18 ? 22u
                                                                       : p.layers - 2)
        << p.family;
    EXPECT_EQ(config->layers.back().v_from_k, p.per_layer == 0) << p.family;
    EXPECT_FALSE(config->layers.front().v_from_k);
    const Status tensors = check_tensors(*config, header);
    ASSERT_FALSE(tensors.has_value());
    EXPECT_EQ(tensors.error().code, ErrorCode::kNotFound);
  }
}

}  // namespace
}  // namespace lapidary::model
