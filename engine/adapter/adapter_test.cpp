// Adapters against models: shapes, ranks, order, and matrices that a model does not use.
#include "engine/adapter/adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/adapter/collector.h"
#include "engine/adapter/test_adapter.h"

namespace lapidary::adapter {
namespace {

using enum ErrorCode;
using enum model::TensorRole;

// An adapter of one module in the shape that the model wants.
LoraAdapter fitting(const model::Config& config, uint32_t layer, model::TensorRole role) {
  const model::TensorShape shape = model::expected_shape(config, role, static_cast<int>(layer));
  LoraAdapter adapter{.rank = 2, .alpha = 4};
  adapter.modules = {make_module(layer, role, 2, static_cast<uint32_t>(shape.dims[0]),
                                 static_cast<uint32_t>(shape.dims[1]))};
  return adapter;
}

TEST(Adapter, ScaleIsAlphaOverRankOrItsRoot) {
  LoraAdapter adapter = make_adapter();
  adapter.modules[0].rank = 4;
  EXPECT_EQ(scale(adapter, adapter.modules[0]), 4.0);
  adapter.rs_lora = true;
  EXPECT_EQ(scale(adapter, adapter.modules[0]), 8.0);
}

TEST(Adapter, EveryRoleFitsWhereTheModelHasIt) {
  const model::Config e = fixture_config("gemma4/tiny-e.gguf");
  for (const model::TensorRole role : kRoles) {
    const auto status = check(fitting(e, 0, role), e);
    EXPECT_TRUE(status.has_value()) << status.error().message;
  }
}

TEST(Adapter, MatricesThatTheModelDoesNotUseAreRefused) {
  const model::Config e = fixture_config("gemma4/tiny-e.gguf");
  const auto last = static_cast<uint32_t>(e.layers.size() - 1);
  ASSERT_TRUE(e.layers[last].shares_kv);
  const std::string k = cat("blk.", last, ".attn_k.weight"),
                    v = cat("blk.", last, ".attn_v.weight");
  expect_error(check(fitting(e, last, kAttnK), e), kUnsupported, k);
  expect_error(check(fitting(e, last, kAttnV), e), kUnsupported, v);
  expect_error(check(fitting(e, last, kAttnV), e), kUnsupported, "shares K and V of layer");

  const model::Config dense = fixture_config("gemma4/tiny-dense.gguf");
  uint32_t global = 0;
  while (!dense.layers[global].v_from_k) ++global;
  EXPECT_TRUE(check(fitting(dense, global, kAttnK), dense).has_value());
  expect_error(check(fitting(dense, global, kAttnV), dense), kUnsupported, "takes V from K");
  LoraAdapter gate = fitting(e, 0, kInpGate);
  expect_error(check(gate, dense), kUnsupported, "no per-layer embeddings");
}

TEST(Adapter, ShapesMustBeTheModels) {
  const model::Config e = fixture_config("gemma4/tiny-e.gguf");
  LoraAdapter adapter = fitting(e, 0, kAttnQ);
  const uint32_t inputs = adapter.modules[0].inputs, outputs = adapter.modules[0].outputs;
  adapter.modules = {make_module(0, kAttnQ, 2, inputs + 1, outputs)};
  expect_error(check(adapter, e), kInvalidFormat, "the adapter is of another model");
  adapter.modules = {make_module(0, kAttnQ, 2, inputs, outputs + 1)};
  expect_error(check(adapter, e), kInvalidFormat, "blk.0.attn_q.weight is made for");
  adapter.modules = {make_module(200, kAttnQ, 2, inputs, outputs)};
  expect_error(check(adapter, e), kInvalidFormat, cat("the model has ", e.layers.size()));
}

TEST(Adapter, UnsoundOnesAreRefused) {
  struct Case {
    void (*damage)(LoraAdapter&);
    ErrorCode code;
    std::string_view text;
  };
  const Case cases[] = {
      {[](LoraAdapter& x) { x.modules.clear(); }, kInvalidFormat, "changes no matrix"},
      {[](LoraAdapter& x) { x.rank = 0; }, kInvalidFormat, "rank 0"},
      {[](LoraAdapter& x) { x.alpha = -1; }, kInvalidFormat, "alpha -1"},
      {[](LoraAdapter& x) { x.modules[0].rank = 0; }, kInvalidFormat, "rank 0"},
      {[](LoraAdapter& x) { x.modules[0].rank = 1025; }, kInvalidFormat, "rank 1025"},
      {[](LoraAdapter& x) { x.modules[0].alpha = 0; }, kInvalidFormat, "alpha 0"},
      {[](LoraAdapter& x) { x.modules[0].alpha = NAN; }, kInvalidFormat, "alpha nan"},
      {[](LoraAdapter& x) { x.modules[0].role = kFfnNorm; }, kUnsupported, "ffn_norm"},
      {[](LoraAdapter& x) { x.modules[1].layer = 256; }, kInvalidFormat, "layer 256"},
      {[](LoraAdapter& x) { x.modules[2].layer = 1; }, kInvalidFormat, "layer 1 is out of range"},
      {[](LoraAdapter& x) { x.modules[0].a.pop_back(); }, kInvalidFormat, "sizes"},
      {[](LoraAdapter& x) { x.modules[0].outputs = 0; }, kInvalidFormat, "sizes"},
      {[](LoraAdapter& x) { x.modules[0].b[3] = std::numeric_limits<float>::infinity(); },
       kInvalidFormat, "not finite"},
      {[](LoraAdapter& x) { x.modules[1] = x.modules[0]; }, kInvalidFormat,
       "attn_q.weight is there twice"},
      {[](LoraAdapter& x) { std::swap(x.modules[0], x.modules[1]); }, kInvalidFormat,
       "out of order"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    LoraAdapter adapter = make_adapter();
    c.damage(adapter);
    expect_error(check(adapter), c.code, c.text);
  }
  EXPECT_TRUE(check(make_adapter()).has_value());
}

TEST(Adapter, LayersAreDecimal) {
  EXPECT_EQ(parse_layer("0"), 0u);
  EXPECT_EQ(parse_layer("255"), 255u);
  for (const std::string_view text : {"", "256", "01", "+1", "-1", "1x", " 1", "99999999999"}) {
    EXPECT_EQ(parse_layer(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace lapidary::adapter
