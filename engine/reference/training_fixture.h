// What tests of the training oracle share: models, runs that must succeed, comparisons.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <vector>

#include "engine/reference/fixture.h"
#include "engine/reference/training.h"

namespace lapidary::reference {

inline ReferenceModel load_fixture_model(std::string_view path) {
  const std::vector<std::byte> file = read_fixture(path);
  Result<gguf::Header> header = gguf::parse_header(file);
  EXPECT_TRUE(header.has_value()) << header.error().message;
  Result<ReferenceModel> model = ReferenceModel::load(*header, file);
  EXPECT_TRUE(model.has_value()) << model.error().message;
  return std::move(*model);
}

using Train = decltype(training_gradients);

inline TrainingResult run(Train train, const ReferenceModel& model,
                          std::span<const LoraModule> modules,
                          std::span<const TrainingSequence> sequences) {
  Result<TrainingResult> result = train(model, modules, sequences);
  EXPECT_TRUE(result.has_value()) << result.error().message;
  return std::move(*result);
}

inline double largest(const auto& values) {
  double most = 0;
  for (const auto v : values) most = std::max(most, std::fabs(double{v}));
  return most;
}

// The largest difference, relative to the largest expected value.
inline double relative_difference(std::span<const double> found, const auto& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    const double difference = std::fabs(found[i] - double{expected[i]});
    worst = difference <= worst ? worst : difference;  // a NaN is the worst
  }
  return worst / largest(expected);
}

}  // namespace lapidary::reference
