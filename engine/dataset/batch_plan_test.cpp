#include "engine/dataset/batch_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "engine/base/random.h"
#include "engine/dataset/split.h"

namespace lapidary::dataset {
namespace {

// Example i has `lengths[i]` positions and holds the tokens 1000 i, 1000 i + 1, …; every second is
// learnt, and the last.
Dataset make_dataset(const std::vector<uint32_t>& lengths) {
  Dataset dataset;
  for (uint32_t i = 0; i < lengths.size(); ++i) {
    LabelledTokens sequence;
    for (uint32_t t = 0; t <= lengths[i]; ++t) {
      sequence.tokens.push_back(1000 * i + t);
      sequence.learn.push_back(t % 2 == 0 || t == lengths[i]);
    }
    EXPECT_TRUE(*dataset.add(sequence, i + 1));
  }
  return dataset;
}

std::vector<uint32_t> random_lengths(size_t n, uint32_t longest) {
  Random random(11);
  std::vector<uint32_t> lengths;
  for (size_t i = 0; i < n; ++i) lengths.push_back(1 + random.below(longest));
  return lengths;
}

std::vector<uint32_t> all_of(const Dataset& dataset) {
  std::vector<uint32_t> examples(dataset.size());
  std::iota(examples.begin(), examples.end(), 0u);
  return examples;
}

// Checks a batch against the dataset and returns its examples in order.
std::vector<uint32_t> examples_of(const Dataset& dataset, const Batch& batch) {
  std::vector<uint32_t> found;
  uint32_t supervised = 0;
  EXPECT_EQ(batch.tokens.size(), size_t{batch.rows} * batch.row_length);
  for (size_t at = 0; at < batch.tokens.size();) {
    if (batch.sequence_ids[at] == kNoSequence) {
      EXPECT_EQ(batch.tokens[at], 0u);
      EXPECT_EQ(batch.targets[at], kUnsupervised);
      EXPECT_EQ(batch.positions[at], 0u);
      ++at;
      continue;
    }
    const uint32_t i = batch.tokens[at] / 1000;
    const Example example = dataset.example(i);
    EXPECT_LE(at % batch.row_length + example.tokens.size(), batch.row_length);
    for (uint32_t t = 0; t < example.tokens.size(); ++t, ++at) {
      EXPECT_EQ(batch.tokens[at], example.tokens[t]);
      EXPECT_EQ(batch.targets[at], example.targets[t]);
      EXPECT_EQ(batch.positions[at], t);
      EXPECT_EQ(batch.sequence_ids[at], found.size());
      supervised += example.targets[t] != kUnsupervised ? 1 : 0;
    }
    found.push_back(i);
  }
  EXPECT_EQ(batch.sequences, found.size());
  EXPECT_EQ(batch.supervised, supervised);
  return found;
}

TEST(FirstFit, IsFirstFit) {
  EXPECT_EQ(first_fit({6, 5, 4, 5, 3, 2}, 10), (std::vector<uint32_t>{0, 1, 0, 1, 2, 2}));
  const std::vector<uint32_t> lengths = random_lengths(500, 100);
  std::vector<uint32_t> room, expected;
  for (const uint32_t length : lengths) {
    size_t row = 0;
    while (row < room.size() && room[row] < length) ++row;
    if (row == room.size()) room.push_back(128);
    room[row] -= length;
    expected.push_back(static_cast<uint32_t>(row));
  }
  EXPECT_EQ(first_fit(lengths, 128), expected);
  EXPECT_EQ(first_fit({7}, 7), std::vector<uint32_t>{0});
}

TEST(BatchPlan, HoldsEveryExampleOnceAnEpoch) {
  const Dataset dataset = make_dataset(random_lengths(200, 60));
  for (const bool pack : {false, true}) {
    for (const uint32_t rows : {1u, 3u, 500u}) {
      auto plan =
          BatchPlan::create(dataset, all_of(dataset),
                            {.rows = rows, .row_length = 64, .length_unit = 8, .pack = pack});
      ASSERT_TRUE(plan.has_value()) << plan.error().message;
      std::vector<std::vector<uint32_t>> orders;
      for (uint32_t epoch = 0; epoch < 2; ++epoch) {
        std::vector<uint32_t> order;
        const uint32_t batches = plan->batches();
        for (uint32_t b = 0; b < batches; ++b) {
          EXPECT_EQ(plan->state(), (PlanState{0, epoch, b}));
          const Batch batch = plan->next();
          EXPECT_EQ(batch.row_length % 8, 0u);
          EXPECT_LE(batch.row_length, 64u);
          if (b + 1 < batches) EXPECT_EQ(batch.rows, rows);
          std::ranges::copy(examples_of(dataset, batch), std::back_inserter(order));
        }
        orders.push_back(order);
        std::ranges::sort(order);
        EXPECT_EQ(order, all_of(dataset));
      }
      EXPECT_EQ(plan->state().epoch, 2u);
      EXPECT_NE(orders[0], orders[1]);
    }
  }
}

TEST(BatchPlan, PacksTightly) {
  const Dataset dataset = make_dataset(random_lengths(2000, 100));
  auto plan = BatchPlan::create(dataset, all_of(dataset), {.row_length = 256});
  ASSERT_TRUE(plan.has_value());
  const double used = static_cast<double>(dataset.positions()) / (256.0 * plan->batches());
  std::printf("%.1f %% of the rows are used\n", 100 * used);
  EXPECT_GT(used, 0.97);
}

TEST(BatchPlan, GoesOnAtAnyPosition) {
  const Dataset dataset = make_dataset(random_lengths(50, 30));
  const BatchOptions options{.rows = 2, .row_length = 40};
  auto plan = BatchPlan::create(dataset, all_of(dataset), options, {.seed = 5});
  ASSERT_TRUE(plan.has_value());
  for (int b = 0; b < 40; ++b) {
    const PlanState state = plan->state();
    const Batch batch = plan->next();
    auto resumed = BatchPlan::create(dataset, all_of(dataset), options, state);
    ASSERT_TRUE(resumed.has_value()) << resumed.error().message;
    const Batch again = resumed->next();
    EXPECT_EQ(again.tokens, batch.tokens);
    EXPECT_EQ(again.targets, batch.targets);
    EXPECT_EQ(resumed->state(), plan->state());
  }
  EXPECT_GE(plan->state().epoch, 2u);
}

// The same everywhere and in later versions: a checkpoint must not meet another order.
TEST(BatchPlan, OrderIsFixedBySeed) {
  const Dataset dataset = make_dataset(std::vector<uint32_t>(8, 2));
  const auto order = [&](uint64_t seed, bool shuffle = true) {
    auto plan =
        BatchPlan::create(dataset, all_of(dataset),
                          {.row_length = 2, .pack = false, .shuffle = shuffle}, {.seed = seed});
    std::vector<uint32_t> out;
    while (plan->state().epoch == 0) out.push_back(plan->next().tokens[0] / 1000);
    return out;
  };
  EXPECT_EQ(order(1, false), all_of(dataset));
  EXPECT_NE(order(1), order(2));
  EXPECT_EQ(order(1), (std::vector<uint32_t>{5, 3, 1, 2, 6, 4, 0, 7}));
}

TEST(BatchPlan, RefusesWhatCannotBe) {
  const Dataset dataset = make_dataset({3, 9});
  const auto message = [&](std::vector<uint32_t> examples, const BatchOptions& options,
                           const PlanState& state = {}) {
    const auto plan = BatchPlan::create(dataset, std::move(examples), options, state);
    return plan ? "accepted" : plan.error().message;
  };
  const BatchOptions good{.row_length = 9};
  EXPECT_EQ(message({0, 1}, good), "accepted");
  EXPECT_EQ(message({}, good), "batches: there is no example");
  EXPECT_EQ(message({2}, good), "batches: there is no example 2");
  EXPECT_EQ(message({1}, {.row_length = 8}), "batches: example 1 has 9 tokens, a row holds 8");
  EXPECT_EQ(message({0}, {.rows = 0}), "batches: rows, row length and length unit must not be 0");
  EXPECT_EQ(message({0}, {.row_length = 9, .length_unit = 4}),
            "batches: rows of 9 tokens are no multiple of 4");
  EXPECT_EQ(message({0}, {.rows = 1u << 20, .row_length = 4096}),
            "batches: 1048576 rows of 4096 tokens are too many");
  EXPECT_EQ(message({0, 1}, good, {.batch = 2}),
            "batches: epoch 0 has 2 batches, none 2: the state is of other data or options");
}

TEST(Split, KeepsLinesTogetherAndCountsThem) {
  Dataset dataset;
  for (uint64_t line = 1; line <= 40; ++line) {
    for (uint64_t part = 0; part < 1 + line % 3; ++part) {
      EXPECT_TRUE(*dataset.add({{2, 5}, {false, true}}, line));
    }
  }
  const auto lines = [&](const std::vector<uint32_t>& examples) {
    std::set<uint64_t> out;
    for (const uint32_t i : examples) out.insert(dataset.line(i));
    return out;
  };
  const auto quarter = split(dataset, {.fraction = 0.25}, 3);
  ASSERT_TRUE(quarter.has_value());
  EXPECT_EQ(lines(quarter->eval).size(), 10u);
  EXPECT_EQ(lines(quarter->train).size(), 30u);
  EXPECT_EQ(quarter->train.size() + quarter->eval.size(), dataset.size());
  EXPECT_TRUE(std::ranges::is_sorted(quarter->eval));
  EXPECT_EQ(split(dataset, {.fraction = 0.25}, 3)->eval, quarter->eval);
  EXPECT_NE(split(dataset, {.fraction = 0.25}, 4)->eval, quarter->eval);
  EXPECT_EQ(lines(split(dataset, {.count = 7}, 3)->eval).size(), 7u);
  EXPECT_EQ(lines(split(dataset, {.fraction = 0.001}, 3)->eval).size(), 1u);
  EXPECT_TRUE(split(dataset, {}, 3)->eval.empty());
  EXPECT_EQ(split(dataset, {.count = 40}, 3).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(split(dataset, {.fraction = 1.5}, 3).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(split(dataset, {.fraction = -1}, 3).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace lapidary::dataset
