// The oracle of training against finite differences of its own loss and against the reference
// forward pass, on the tiny models.
#include "engine/reference/training.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "engine/reference/training_fixture.h"

namespace lapidary::reference {
namespace {

using model::TensorRole;

double uniform(std::mt19937& random) { return static_cast<double>(random()) / 0x80000000 - 1; }

std::vector<double> uniform(std::mt19937& random, size_t count, double most) {
  std::vector<double> values(count);
  for (double& v : values) v = uniform(random) * most;
  return values;
}

constexpr TensorRole kRoles[] = {
    TensorRole::kAttnQ,   TensorRole::kAttnK,  TensorRole::kAttnV,   TensorRole::kAttnOutput,
    TensorRole::kFfnGate, TensorRole::kFfnUp,  TensorRole::kFfnDown, TensorRole::kInpGate,
    TensorRole::kProj,    TensorRole::kOutput,
};

std::string name_of(const LoraModule& module) {
  return model::tensor_name(module.role, static_cast<int>(module.layer));
}

// One module for every matrix that can have one.
std::vector<LoraModule> every_module(const model::Config& config, std::mt19937& random) {
  std::vector<LoraModule> modules;
  for (const TensorRole role : kRoles) {
    const size_t layers = role == TensorRole::kOutput ? 1 : config.layers.size();
    for (uint32_t layer = 0; layer < layers; ++layer) {
      const int index = static_cast<int>(layer);
      if (model::tensor_need(config, role, index) == model::TensorNeed::kNone) continue;
      const model::TensorShape shape = model::expected_shape(config, role, index);
      const uint32_t rank = 1 + static_cast<uint32_t>(modules.size() % 3);
      modules.push_back({.role = role,
                         .layer = layer,
                         .rank = rank,
                         .scale = 0.5 + rank,
                         .a = uniform(random, rank * shape.dims[0], 0.2),
                         .b = uniform(random, rank * shape.dims[1], 0.2)});
    }
  }
  return modules;
}

// Two sequences that are longer than the window, with masked targets of both kinds.
std::vector<TrainingSequence> two_sequences(const model::Config& config, std::mt19937& random) {
  std::vector<TrainingSequence> batch;
  for (const size_t count : {11, 8}) {
    TrainingSequence& sequence = batch.emplace_back();
    for (size_t t = 0; t < count; ++t) {
      sequence.tokens.push_back(static_cast<uint32_t>(random()) % config.vocab);
      const bool masked = t < 3 || t == 6;
      sequence.targets.push_back(masked ? (t == 1 ? config.vocab : kUnsupervised)
                                        : static_cast<uint32_t>(random()) % config.vocab);
    }
  }
  return batch;
}

class TrainingTest : public testing::TestWithParam<const char*> {
 protected:
  std::mt19937 random{20};
  const ReferenceModel model = load_fixture_model(cat("gemma4/", GetParam(), ".gguf"));
  const model::Config& config = model.config();
  std::vector<LoraModule> modules = every_module(config, random);
  std::vector<TrainingSequence> batch = two_sequences(config, random);
};

// What the models are there for.
TEST_P(TrainingTest, HasFeatures) {
  const auto any = [&](auto member) { return std::ranges::any_of(config.layers, member); };
  const bool e = std::string_view(GetParam()) == "tiny-e";
  EXPECT_TRUE(any(&model::LayerConfig::sliding));
  EXPECT_FALSE(std::ranges::all_of(config.layers, &model::LayerConfig::sliding));
  EXPECT_EQ(any(&model::LayerConfig::shares_kv), e);
  EXPECT_EQ(config.per_layer_dim > 0, e);
  EXPECT_EQ(any(&model::LayerConfig::v_from_k), !e);
  EXPECT_GT(config.softcap, 0);
  EXPECT_LT(config.window, batch[1].tokens.size());
}

// Without modules the loss is that of the forward pass's logits.
TEST_P(TrainingTest, LossIsThatOfTheForwardPass) {
  double sum = 0;
  size_t supervised = 0;
  for (const TrainingSequence& sequence : batch) {
    const Result<std::vector<float>> logits = model.forward(sequence.tokens);
    ASSERT_TRUE(logits.has_value()) << logits.error().message;
    for (size_t t = 0; t < sequence.tokens.size(); ++t) {
      if (sequence.targets[t] >= config.vocab) continue;
      const auto row = std::span(*logits).subspan(t * config.vocab, config.vocab);
      double total = 0;
      for (const float v : row) total += std::exp(double{v});
      sum += std::log(total) - double{row[sequence.targets[t]]};
      ++supervised;
    }
  }
  const TrainingResult result = run(training_loss, model, {}, batch);
  EXPECT_EQ(result.supervised, supervised);
  EXPECT_NEAR(result.loss, sum / static_cast<double>(supervised), 1e-5 * result.loss);
  for (LoraModule& module : modules) std::ranges::fill(module.b, 0);
  EXPECT_EQ(run(training_loss, model, modules, batch).loss, result.loss);
}

// The slope of f at 0 by central differences of fourth order.
double slope(const std::function<double(double)>& f, double h) {
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
}

// An entry of A or B of every module.
TEST_P(TrainingTest, GradientsAreSlopes) {
  const TrainingResult result = run(training_gradients, model, modules, batch);
  EXPECT_EQ(run(training_loss, model, modules, batch).loss, result.loss);
  double worst = 0;
  for (size_t i = 0; i < modules.size(); ++i) {
    const bool is_a = random() % 2 == 0;
    std::vector<double>& values = is_a ? modules[i].a : modules[i].b;
    const std::vector<double>& gradient = is_a ? result.gradients[i].a : result.gradients[i].b;
    const size_t at = random() % values.size();
    const double start = values[at];
    const auto loss_at = [&](double step) {
      values[at] = start + step;
      return run(training_loss, model, modules, batch).loss;
    };
    const double expected = slope(loss_at, 1e-3);
    values[at] = start;
    // Tiny gradients are held to a thousandth of the largest of their matrix.
    const double unit = std::max(std::fabs(expected), 1e-3 * largest(gradient));
    const double difference = std::fabs(gradient[at] - expected) / unit;
    EXPECT_LE(difference, 1e-6) << name_of(modules[i]) << (is_a ? " A " : " B ") << at << ": "
                                << gradient[at] << " or " << expected;
    worst = std::max(worst, difference);
  }
  RecordProperty("worst_relative", cat(worst));
}

// All entries of all modules of a kind at once: the slope along a random direction is the
// direction's product with the gradient.
TEST_P(TrainingTest, GradientsOfAKindAreSlopes) {
  const TrainingResult result = run(training_gradients, model, modules, batch);
  double worst = 0;
  for (const TensorRole role : kRoles) {
    if (std::ranges::find(modules, role, &LoraModule::role) == modules.end()) continue;
    std::vector<LoraModule> direction = modules;
    double product = 0;
    const auto choose = [&](std::vector<double>& by, const std::vector<double>& gradient) {
      by = uniform(random, by.size(), 1);
      for (size_t j = 0; j < by.size(); ++j) product += by[j] * gradient[j];
    };
    for (size_t i = 0; i < modules.size(); ++i) {
      if (modules[i].role != role) continue;
      choose(direction[i].a, result.gradients[i].a);
      choose(direction[i].b, result.gradients[i].b);
    }
    const auto loss_at = [&](double step) {
      std::vector<LoraModule> moved = modules;
      const auto move = [&](std::vector<double>& x, const std::vector<double>& by) {
        for (size_t j = 0; j < x.size(); ++j) x[j] += step * by[j];
      };
      for (size_t i = 0; i < moved.size(); ++i) {
        if (moved[i].role != role) continue;
        move(moved[i].a, direction[i].a);
        move(moved[i].b, direction[i].b);
      }
      return run(training_loss, model, moved, batch).loss;
    };
    const double difference = std::fabs(product / slope(loss_at, 1e-4) - 1);
    EXPECT_LE(difference, 1e-6) << model::tensor_name(role);
    worst = std::max(worst, difference);
  }
  RecordProperty("worst_relative", cat(worst));
}

void expect_same(const TrainingResult& a, const TrainingResult& b) {
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.supervised, b.supervised);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    EXPECT_EQ(a.gradients[i].a, b.gradients[i].a) << i;
    EXPECT_EQ(a.gradients[i].b, b.gradients[i].b) << i;
  }
}

// Neither a masked target's value nor what comes after the last supervised one changes a bit.
TEST_P(TrainingTest, MaskedTargetsAddNothing) {
  batch[0].targets.back() = batch[0].targets[9] = kUnsupervised;
  const TrainingResult before = run(training_gradients, model, modules, batch);
  for (TrainingSequence& sequence : batch) {
    for (uint32_t& target : sequence.targets) {
      if (target >= config.vocab) target = target == kUnsupervised ? config.vocab : kUnsupervised;
    }
  }
  expect_same(run(training_gradients, model, modules, batch), before);
  const auto change = [&](uint32_t& token) { token = (token + 1) % config.vocab; };
  change(batch[0].tokens[9]);
  change(batch[0].tokens[10]);
  batch.push_back({.tokens = {2, 3}, .targets = {kUnsupervised, kUnsupervised}});
  expect_same(run(training_gradients, model, modules, batch), before);
  change(batch[0].tokens[8]);  // the last supervised position
  EXPECT_NE(run(training_loss, model, modules, batch).loss, before.loss);
}

TEST_P(TrainingTest, BatchIsTheWeightedMeanOfItsSequences) {
  const TrainingResult both = run(training_gradients, model, modules, batch);
  double loss = 0;
  std::vector<LoraGradient> sum(modules.size());
  for (const TrainingSequence& sequence : batch) {
    const TrainingResult alone = run(training_gradients, model, modules, {&sequence, 1});
    const double weight =
        static_cast<double>(alone.supervised) / static_cast<double>(both.supervised);
    loss += weight * alone.loss;
    const auto add = [&](std::vector<double>& to, const std::vector<double>& from) {
      to.resize(from.size());
      for (size_t j = 0; j < to.size(); ++j) to[j] += weight * from[j];
    };
    for (size_t i = 0; i < sum.size(); ++i) {
      add(sum[i].a, alone.gradients[i].a);
      add(sum[i].b, alone.gradients[i].b);
    }
  }
  EXPECT_NEAR(both.loss, loss, 1e-13 * loss);
  for (size_t i = 0; i < sum.size(); ++i) {
    EXPECT_LT(relative_difference(both.gradients[i].a, sum[i].a), 1e-12) << i;
    EXPECT_LT(relative_difference(both.gradients[i].b, sum[i].b), 1e-12) << i;
  }
}

TEST_P(TrainingTest, WithoutSupervision) {
  for (TrainingSequence& sequence : batch) std::ranges::fill(sequence.targets, kUnsupervised);
  for (const std::span<const TrainingSequence> sequences :
       {std::span<const TrainingSequence>(batch), std::span<const TrainingSequence>()}) {
    const TrainingResult result = run(training_gradients, model, modules, sequences);
    EXPECT_EQ(result.loss, 0);
    EXPECT_EQ(result.supervised, 0u);
    ASSERT_EQ(result.gradients.size(), modules.size());
    for (size_t i = 0; i < modules.size(); ++i) {
      EXPECT_EQ(result.gradients[i].a, std::vector<double>(modules[i].a.size()));
      EXPECT_EQ(result.gradients[i].b, std::vector<double>(modules[i].b.size()));
    }
  }
}

// Two modules of one matrix are one of the ranks' sum.
TEST_P(TrainingTest, ModulesOfOneMatrixAddUp) {
  LoraModule& whole = modules[0];
  ASSERT_EQ(whole.rank, 1u);
  std::vector<LoraModule> twice = modules;
  twice[0].scale = 0.25 * whole.scale;
  twice.push_back(whole);
  twice.back().scale = 0.75 * whole.scale;
  const TrainingResult one = run(training_gradients, model, modules, batch);
  const TrainingResult two = run(training_gradients, model, twice, batch);
  EXPECT_NEAR(two.loss, one.loss, 1e-12 * one.loss);
  std::vector<double> sum = two.gradients[0].a;
  for (size_t j = 0; j < sum.size(); ++j) sum[j] += two.gradients.back().a[j];
  EXPECT_LT(relative_difference(sum, one.gradients[0].a), 1e-11);
}

INSTANTIATE_TEST_SUITE_P(, TrainingTest, testing::Values("tiny-e", "tiny-dense"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(Training, RefusesBadInput) {
  const ReferenceModel tiny_e = load_fixture_model("gemma4/tiny-e.gguf");
  const ReferenceModel tiny_dense = load_fixture_model("gemma4/tiny-dense.gguf");
  const auto code = [&](const ReferenceModel& model, std::vector<LoraModule> modules,
                        std::vector<TrainingSequence> batch = {}) {
    const auto result = training_gradients(model, modules, batch);
    return result ? ErrorCode::kOk : result.error().code;
  };
  const auto module = [](TensorRole role, uint32_t layer, size_t inputs, size_t outputs) {
    return std::vector<LoraModule>{{.role = role,
                                    .layer = layer,
                                    .rank = 2,
                                    .a = std::vector<double>(2 * inputs),
                                    .b = std::vector<double>(2 * outputs)}};
  };
  EXPECT_EQ(code(tiny_e, module(TensorRole::kAttnQ, 0, 32, 32)), ErrorCode::kOk);
  EXPECT_EQ(code(tiny_e, module(TensorRole::kOutput, 0, 32, 295)), ErrorCode::kOk);
  EXPECT_EQ(code(tiny_dense, module(TensorRole::kAttnK, 2, 32, 16)), ErrorCode::kOk);
  // Shapes and ranks.
  EXPECT_EQ(code(tiny_e, module(TensorRole::kAttnQ, 0, 31, 32)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_e, module(TensorRole::kAttnQ, 0, 32, 33)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_e, {{.role = TensorRole::kAttnQ}}), ErrorCode::kInvalidArgument);
  // Layers that do not exist, or have no such matrix; other tensors.
  EXPECT_EQ(code(tiny_e, module(TensorRole::kAttnQ, 7, 32, 32)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_e, module(TensorRole::kOutput, 1, 32, 295)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_e, module(TensorRole::kAttnK, 4, 32, 8)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_dense, module(TensorRole::kAttnV, 2, 32, 16)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_dense, module(TensorRole::kProj, 0, 8, 32)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_e, module(TensorRole::kTokenEmbd, 0, 32, 295)), ErrorCode::kInvalidArgument);
  // Sequences.
  EXPECT_EQ(code(tiny_e, {}, {{.tokens = {294}, .targets = {295}}}), ErrorCode::kOk);
  EXPECT_EQ(code(tiny_e, {}, {{.tokens = {295}, .targets = {1}}}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_e, {}, {{.tokens = {1, 2}, .targets = {1}}}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(tiny_e, {}, {TrainingSequence{}}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(load_fixture_model("gemma4/tiny-moe.gguf"), {}), ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace lapidary::reference
