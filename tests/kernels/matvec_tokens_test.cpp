// Matvecs of several tokens at once: each token as it is alone, which matvec_test.cpp compares with
// double loops.
#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/kernels/matvec.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/groups.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kTokens = 3;
// Floats between the rows of tokens that nobody may touch.
constexpr uint32_t kRoom = 4;

// What a product binds after its weights: of `row` floats a token, or of all tokens together.
struct Bound {
  std::vector<float> values;
  uint32_t row = 0;

  std::vector<float> of(uint32_t token) const {
    if (row == 0) return values;
    return {values.begin() + token * row, values.begin() + (token + 1) * row};
  }
  std::vector<float> spread() const {
    if (row == 0) return values;
    std::vector<float> out;
    for (uint32_t t = 0; t < kTokens; ++t) {
      const std::vector<float> own = of(t);
      out.insert(out.end(), own.begin(), own.end());
      out.insert(out.end(), kRoom, 7.0f);
    }
    return out;
  }
};
Bound rows(TrialRandom& random, uint32_t row, float scale = 1.0f) {
  return {random.floats(size_t{kTokens} * row, scale), row};
}
Bound zeros(uint32_t row) { return {std::vector<float>(size_t{kTokens} * row), row}; }

using Outputs = std::vector<std::vector<float>>;  // of each binding from y on

Task<Result<Outputs>> run(gpu::Device& device, const MatvecSpec& spec, const Variant& variant,
                          const TrialGroup& group, std::vector<std::vector<float>> bound,
                          const gpu::Range* last) {
  std::vector<gpu::Buffer> buffers;
  std::vector<gpu::Range> ranges = {group.buffer};
  for (const std::vector<float>& values : bound) {
    CO_TRY(gpu::Buffer buffer, trial_buffer(device, values));
    ranges.emplace_back(buffer);
    buffers.push_back(std::move(buffer));
  }
  if (last != nullptr) ranges.push_back(*last);
  CO_TRY_VOID(co_await trial_run(device, matvec_source(spec, variant), ranges,
                                 matvec_groups(spec, spec.tokens ? kTokens : 1)));
  Outputs out;
  for (size_t i = 0; i < buffers.size(); ++i) {
    CO_TRY(std::vector<float> values,
           co_await trial_read<float>(device, buffers[i], bound[i].size()));
    out.push_back(std::move(values));
  }
  co_return out;
}

// bound: y, and what follows it. steps: of kMerge, the tokens' positions.
Task<Status> expect_as_alone(gpu::Device& device, MatvecSpec spec, const Variant& variant,
                             const TrialGroup& group, std::vector<Bound> bound,
                             std::vector<uint32_t> positions = {}) {
  const auto stride = [&](size_t i) {
    return i < bound.size() && bound[i].row > 0 ? bound[i].row + kRoom : 0;
  };
  TokenStrides strides{.y = stride(0), .input = stride(1)};
  if (spec.prologue == Prologue::kResidualNorm) {
    strides.delta = stride(2);
    strides.stream = stride(4);
  } else if (spec.prologue == Prologue::kMerge) {
    strides.stats = stride(2);
  }
  if (spec.epilogue == Epilogue::kGeluMul) strides.mul = stride(bound.size() - 1);
  std::vector<Step> steps(kMaxStepRows);
  for (size_t t = 0; t < positions.size(); ++t) steps[t].position = positions[t];
  CO_TRY(const gpu::Buffer all_steps, trial_buffer(device, steps));
  const gpu::Range all_range = all_steps;

  MatvecSpec several = spec;
  several.tokens = strides;
  std::vector<std::vector<float>> spread;
  for (const Bound& each : bound) spread.push_back(each.spread());
  CO_TRY(const Outputs got, co_await run(device, several, variant, group, spread,
                                         positions.empty() ? nullptr : &all_range));
  for (uint32_t t = 0; t < kTokens; ++t) {
    std::vector<std::vector<float>> own;
    for (const Bound& each : bound) own.push_back(each.of(t));
    CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{steps[t]}));
    const gpu::Range step_range = step;
    CO_TRY(const Outputs want, co_await run(device, spec, variant, group, own,
                                            positions.empty() ? nullptr : &step_range));
    for (size_t i = 0; i < bound.size(); ++i) {
      if (bound[i].row == 0) continue;
      const float* row = got[i].data() + size_t{t} * stride(i);
      for (uint32_t k = 0; k < bound[i].row; ++k) {
        const double most = 1e-6 * std::max(1.0f, std::fabs(want[i][k]));
        // Bytes that are handed over may be no numbers.
        const bool same = std::bit_cast<uint32_t>(row[k]) == std::bit_cast<uint32_t>(want[i][k]);
        KERNEL_EXPECT(same || std::fabs(double{row[k]} - want[i][k]) <= most, "token ", t,
                      ", binding ", i, " at ", k, ": ", row[k], " instead of ", want[i][k]);
      }
      for (uint32_t k = 0; k < kRoom; ++k)
        KERNEL_EXPECT(row[bound[i].row + k] == 7.0f, "wrote behind the row of token ", t);
    }
  }
  co_return Status{};
}

KERNEL_TEST(matvec_tokens_of_segments) {
  CO_TRY(const TrialGroup group,
         co_await make_group(device, {{Codec::kQ4_K, 70}, {Codec::kQ6_K, 19}}, 512));
  TrialRandom random(1);
  for (const Variant& variant : {variants(device).front(), dot_variants(device).back()}) {
    CO_TRY_VOID(co_await expect_as_alone(device, {.segments = group.segments, .cols = 512}, variant,
                                         group, {zeros(89), rows(random, 512)}));
  }
  co_return Status{};
}

// More workgroups than a dimension of a dispatch has.
KERNEL_TEST(matvec_tokens_of_many_rows) {
  CO_TRY(const TrialGroup group, co_await make_group(device, {{Codec::kQ8_0, 65539}}, 32));
  TrialRandom random(2);
  co_return co_await expect_as_alone(
      device, {.segments = group.segments, .cols = 32, .tiling = MatvecTiling{32, 32, 1}},
      variants(device).front(), group, {zeros(65539), rows(random, 32)});
}

KERNEL_TEST(matvec_tokens_after_norms) {
  constexpr uint32_t kCols = 96;
  CO_TRY(const TrialGroup group, co_await make_group(device, {{Codec::kQ4_0, 50}}, kCols));
  TrialRandom random(3);
  std::vector<float> site = random.floats(2 * kCols, 0.5f, 1.0f);
  site.resize(2 * kCols + 4, 0.75f);
  const MatvecSpec spec{.segments = group.segments,
                        .cols = kCols,
                        .prologue = Prologue::kResidualNorm,
                        .epilogue = Epilogue::kGeluMul,
                        .mul_offset = 3};
  co_return co_await expect_as_alone(
      device, spec, variants(device).back(), group,
      {zeros(50), rows(random, kCols, 3.0f), rows(random, kCols, 2.0f), Bound{site}, zeros(kCols),
       rows(random, 53)});
}

KERNEL_TEST(matvec_tokens_merge_attention) {
  constexpr uint32_t kHeads = 3;
  constexpr uint32_t kSplits = 9;
  CO_TRY(const TrialGroup group, co_await make_group(device, {{Codec::kF16, 11}}, kHeads * 12));
  TrialRandom random(4);
  Bound stats = rows(random, kSplits * kHeads * 2);
  for (size_t i = 1; i < stats.values.size(); i += 2) stats.values[i] += 1.5f;
  const MatvecSpec spec{.segments = group.segments,
                        .cols = kHeads * 12,
                        .prologue = Prologue::kMerge,
                        .heads = kHeads,
                        .head_dim = 12,
                        .window = 512,
                        .attention = {.keys = 80, .splits = kSplits}};
  co_return co_await expect_as_alone(device, spec, variants(device).front(), group,
                                     {zeros(11), rows(random, kSplits * kHeads * 12), stats},
                                     {0, 5000, 170});
}

// A feed-forward network in two products, the vectors between them in bytes.
Task<Status> expect_handed_over(gpu::Device& device, const Variant& variant) {
  constexpr uint32_t kCols = 256;
  constexpr uint32_t kRows = 96;
  CO_TRY(const TrialGroup group,
         co_await make_group(device, {{Codec::kQ4_K, kRows}, {Codec::kQ6_K, kRows}}, kCols));
  CO_TRY(const TrialGroup last, co_await make_group(device, {{Codec::kQ8_0, 37}}, kRows));
  MatvecSpec first{.segments = group.segments, .cols = kCols, .epilogue = Epilogue::kGeglu};
  first.tiling = variant.light ? light_tiling(first) : MatvecTiling{64, 4, 1};
  MatvecSpec second{.segments = last.segments, .cols = kRows};
  KERNEL_EXPECT(can_hand_over(first, second, variant), "not handed over");
  first.quantizes = true;
  second.prologue = Prologue::kQuantized;
  TrialRandom random(5);
  CO_TRY_VOID(co_await expect_as_alone(device, first, variant, group,
                                       {zeros(kRows), rows(random, kCols, 2.0f)}));
  const std::vector<float> x = random.floats(size_t{kTokens} * kCols, 2.0f);
  first.tokens = {.y = kRows, .input = kCols};
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer handed, trial_zeros(device, uint64_t{kTokens} * kRows * 4));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(first, variant),
                                 {group.buffer, handed, x_buffer}, matvec_groups(first, kTokens)));
  CO_TRY(std::vector<float> between,
         co_await trial_read<float>(device, handed, size_t{kTokens} * kRows));
  co_return co_await expect_as_alone(device, second, variant, last,
                                     {zeros(37), Bound{std::move(between), kRows}});
}

KERNEL_TEST(matvec_tokens_handed_over) {
  // As real GPUs run it.
  co_return co_await expect_handed_over(device, {.dot = Dot::kInt16});
}

}  // namespace
}  // namespace lapidary::kernels
