// The oracle of training against PyTorch: losses and gradients of a LoRA on nano.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/reference/safetensors_fixture.h"
#include "engine/reference/training_fixture.h"

namespace lapidary::reference {
namespace {

using model::TensorRole;

using Tensors = std::map<std::string, std::vector<float>>;

const ReferenceModel& nano() {
  static const ReferenceModel model = load_fixture_model("nano/nano-f16.gguf.gz");
  return model;
}

double global_norm(std::span<const LoraGradient> gradients) {
  double sum = 0;
  for (const LoraGradient& gradient : gradients) {
    for (const double v : gradient.a) sum += v * v;
    for (const double v : gradient.b) sum += v * v;
  }
  return std::sqrt(sum);
}

// The run of nano-lora: its modules with B = 0, their names there, and its one example.
struct NanoLora {
  const Json json = read_fixture_json("nano-lora/lora.json");
  std::vector<LoraModule> modules;
  std::vector<std::string> names;  // "base_model.….q_proj"
  std::vector<TrainingSequence> batch;

  NanoLora() {
    constexpr std::pair<std::string_view, TensorRole> kPaths[] = {
        {"self_attn.q_proj", TensorRole::kAttnQ}, {"self_attn.k_proj", TensorRole::kAttnK},
        {"self_attn.v_proj", TensorRole::kAttnV}, {"self_attn.o_proj", TensorRole::kAttnOutput},
        {"mlp.gate_proj", TensorRole::kFfnGate},  {"mlp.up_proj", TensorRole::kFfnUp},
        {"mlp.down_proj", TensorRole::kFfnDown},
    };
    const Json adapter = read_fixture_json("nano-lora/adapter_config.json");
    const auto rank = adapter["r"].get<uint32_t>();
    const Tensors a = read_fixture_safetensors("nano-lora/lora_A_init.safetensors.gz");
    for (uint32_t layer = 0; layer < nano().config().layers.size(); ++layer) {
      for (const auto& [path, role] : kPaths) {
        const std::string name = cat("base_model.model.model.layers.", layer, ".", path);
        const auto found = a.find(name + ".lora_A.weight");
        if (found == a.end()) continue;
        const auto shape = model::expected_shape(nano().config(), role, static_cast<int>(layer));
        const std::vector<float>& values = found->second;
        modules.push_back({.role = role,
                           .layer = layer,
                           .rank = rank,
                           .scale = adapter["lora_alpha"].get<double>() / rank,
                           .a = {values.begin(), values.end()},
                           .b = std::vector<double>(rank * shape.dims[1])});
        names.push_back(name);
      }
    }
    EXPECT_EQ(modules.size(), a.size());
    // The label of a token is predicted by the token before it.
    TrainingSequence& example = batch.emplace_back();
    const Json& labels = json["labels"];
    for (const Json& id : json["ids"]) example.tokens.push_back(id.get<uint32_t>());
    for (size_t t = 0; t < example.tokens.size(); ++t) {
      const int64_t next = t + 1 < labels.size() ? labels[t + 1].get<int64_t>() : -100;
      example.targets.push_back(next < 0 ? kUnsupervised : static_cast<uint32_t>(next));
    }
  }
};

TEST(TrainingNano, WithoutLora) {
  const NanoLora lora;
  const double loss = run(training_loss, nano(), {}, lora.batch).loss;
  const double expected = lora.json["loss_base"].get<double>();
  EXPECT_NEAR(loss / expected, 1, 1e-5);
  RecordProperty("loss_relative", cat(loss / expected - 1));
}

TEST(TrainingNano, AtZeroB) {
  const NanoLora lora;
  const TrainingResult result = run(training_gradients, nano(), lora.modules, lora.batch);
  EXPECT_EQ(result.supervised, 16u);
  EXPECT_NEAR(result.loss / lora.json["loss_init"].get<double>(), 1, 1e-5);
  const Tensors expected = read_fixture_safetensors("nano-lora/grad_B_at_B0.safetensors.gz");
  ASSERT_EQ(expected.size(), lora.modules.size());
  double worst = 0;
  for (size_t i = 0; i < lora.modules.size(); ++i) {
    const std::vector<float>& b = expected.at(lora.names[i] + ".lora_B.weight");
    const double difference = relative_difference(result.gradients[i].b, b);
    EXPECT_LT(difference, 1e-3) << lora.names[i];
    worst = std::max(worst, difference);
    EXPECT_EQ(largest(result.gradients[i].a), 0) << lora.names[i];
  }
  const double norm = lora.json["steps"][0]["grad_norm_before_clip"].get<double>();
  EXPECT_NEAR(global_norm(result.gradients) / norm, 1, 1e-4);
  RecordProperty("loss_relative", cat(result.loss / lora.json["loss_init"].get<double>() - 1));
  RecordProperty("gradient_relative", cat(worst));
  RecordProperty("norm_relative", cat(global_norm(result.gradients) / norm - 1));
}

TEST(TrainingNano, AtNonzeroB) {
  NanoLora lora;
  const Tensors start = read_fixture_safetensors("nano-lora/lora_B_nonzero.safetensors.gz");
  for (size_t i = 0; i < lora.modules.size(); ++i) {
    const std::vector<float>& b = start.at(lora.names[i] + ".lora_B.weight");
    lora.modules[i].b.assign(b.begin(), b.end());
  }
  const TrainingResult result = run(training_gradients, nano(), lora.modules, lora.batch);
  EXPECT_NEAR(result.loss / lora.json["loss_bnz"].get<double>(), 1, 1e-5);
  const Tensors expected = read_fixture_safetensors("nano-lora/grad_at_B_nonzero.safetensors.gz");
  ASSERT_EQ(expected.size(), 2 * lora.modules.size());
  double worst = 0;
  for (size_t i = 0; i < lora.modules.size(); ++i) {
    const std::vector<float>& a = expected.at(lora.names[i] + ".lora_A.weight");
    const std::vector<float>& b = expected.at(lora.names[i] + ".lora_B.weight");
    for (const double difference : {relative_difference(result.gradients[i].a, a),
                                    relative_difference(result.gradients[i].b, b)}) {
      EXPECT_LT(difference, 1e-3) << lora.names[i];
      worst = std::max(worst, difference);
    }
  }
  const double norm = lora.json["grad_norm_bnz"].get<double>();
  EXPECT_NEAR(global_norm(result.gradients) / norm, 1, 1e-4);
  RecordProperty("loss_relative", cat(result.loss / lora.json["loss_bnz"].get<double>() - 1));
  RecordProperty("gradient_relative", cat(worst));
  RecordProperty("norm_relative", cat(global_norm(result.gradients) / norm - 1));
}

}  // namespace
}  // namespace lapidary::reference
