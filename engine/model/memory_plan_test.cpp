#include "engine/model/memory_plan.h"

#include <gtest/gtest.h>

namespace lapidary::model {
namespace {

// Three layers of two buffers; the second is the largest.
MemoryNeeds needs() {
  return {.weights = {.tables = 100, .per_layer = 1000, .dense = 60, .vectors = 5},
          .towers = 7,
          .kv = 20,
          .scratch = 30,
          .staging = 10,
          .stream_staging = 4,
          .layers = {{5, 10}, {20, 6}, {9, 10}}};
}
constexpr uint64_t kRest = 100 + 5 + 7 + 20 + 30;  // beside layers and the per-layer table

TEST(MemoryPlan, EverythingStaysWithoutABudgetOrWithEnough) {
  for (const uint64_t budget : {uint64_t{0}, kRest + 1000 + 60, UINT64_MAX}) {
    const MemoryPlan plan = plan_memory(needs(), std::nullopt, budget);
    EXPECT_EQ(plan.fit, Fit::kFits);
    EXPECT_EQ(plan.places.per_layer, TablePlace::kGpu);
    EXPECT_EQ(plan.places.resident, 3u);
    EXPECT_EQ(plan.bytes, needs().total());
  }
}

TEST(MemoryPlan, ThePerLayerTableGoesFirst) {
  const uint64_t whole = kRest + 1000 + 60;
  MemoryPlan plan = plan_memory(needs(), std::nullopt, whole - 1);
  EXPECT_EQ(plan.fit, Fit::kFits);
  EXPECT_EQ(plan.places.per_layer, TablePlace::kSource);
  EXPECT_EQ(plan.bytes, kRest + 60);
  // Where it is wanted on the GPU, layers go instead.
  plan = plan_memory(needs(), TablePlace::kGpu, whole - 1);
  EXPECT_EQ(plan.fit, Fit::kStreamed);
  EXPECT_EQ(plan.places.per_layer, TablePlace::kGpu);
  EXPECT_EQ(plan.places.resident, 1u);
  EXPECT_EQ(plan_memory(needs(), TablePlace::kSource, 0).places.per_layer, TablePlace::kSource);
}

TEST(MemoryPlan, AsManyLayersStayAsFit) {
  // Streamed layers share buffers as large as the largest of them: {20, 10} of all and of the last
  // two, {9, 10} of the last.
  const auto resident = [](uint64_t budget) {
    const MemoryPlan plan = plan_memory(needs(), TablePlace::kSource, budget);
    EXPECT_EQ(plan.fit, Fit::kStreamed);
    EXPECT_LE(plan.bytes, budget);
    return plan.places.resident;
  };
  EXPECT_EQ(resident(kRest + 4 + 30), 0u);
  EXPECT_EQ(resident(kRest + 4 + 44), 0u);
  EXPECT_EQ(resident(kRest + 4 + 45), 1u);
  EXPECT_EQ(plan_memory(needs(), TablePlace::kSource, kRest + 60).fit, Fit::kFits);
}

TEST(MemoryPlan, TooLittleIsSaid) {
  const MemoryPlan plan = plan_memory(needs(), std::nullopt, kRest + 4 + 29);
  EXPECT_EQ(plan.fit, Fit::kDoesNotFit);
  EXPECT_EQ(plan.least, kRest + 4 + 30);
  EXPECT_EQ(plan.bytes, plan.least);
  const Error error = does_not_fit(needs(), plan, 195);
  EXPECT_EQ(error.code, ErrorCode::kOutOfMemory);
  EXPECT_NE(error.message.find("needs 196 bytes"), std::string::npos) << error.message;
  EXPECT_NE(error.message.find("195 are allowed"), std::string::npos) << error.message;
}

TEST(MemoryPlan, ExpertsGoBeforeLayers) {
  MemoryNeeds mixture = needs();
  mixture.weights.per_layer = 0;
  mixture.weights.experts = 800;
  for (std::vector<uint64_t>& layer : mixture.layers) layer.push_back(800 / 3 + 1);
  mixture.experts = 8;
  mixture.experts_used = 2;
  mixture.expert_slot = 100;
  mixture.expert_staging = 3;
  const auto slots = [&](uint64_t budget) {
    const MemoryPlan plan = plan_memory(mixture, std::nullopt, budget);
    EXPECT_EQ(plan.fit, Fit::kStreamed);
    EXPECT_EQ(plan.places.resident, 3u);
    EXPECT_LE(plan.bytes, budget);
    return plan.places.expert_slots;
  };
  const uint64_t rest = kRest + 60 + 3;
  EXPECT_EQ(plan_memory(mixture, std::nullopt, kRest + 60 + 800).fit, Fit::kFits);
  EXPECT_EQ(slots(kRest + 60 + 799), 7u);
  EXPECT_EQ(slots(rest + 500), 5u);
  EXPECT_EQ(slots(rest + 499), 4u);
  EXPECT_EQ(slots(rest + 200), 2u);
  const MemoryPlan plan = plan_memory(mixture, std::nullopt, rest + 199);
  EXPECT_EQ(plan.fit, Fit::kDoesNotFit);
  EXPECT_EQ(plan.least, rest + 200);
  const Error error = does_not_fit(mixture, plan, 1);
  EXPECT_NE(error.message.find("200 for 2 experts of each"), std::string::npos) << error.message;
}

TEST(MemoryPlan, LoadingMayTakeMoreThanRunning) {
  MemoryNeeds heavy = needs();
  heavy.staging = 500;
  EXPECT_EQ(plan_memory(heavy, std::nullopt, 0).bytes, 100u + 1000 + 60 + 5 + 7 + 500);
}

}  // namespace
}  // namespace lapidary::model
