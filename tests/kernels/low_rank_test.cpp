// Low-rank changes of products against plain double loops: A h by a product of A's own, and what
// adds B to it. Changes that kernels make by themselves: fused_change_test.cpp.
#include <algorithm>
#include <cmath>

#include "engine/kernels/low_rank.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/selftest_matrix.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

constexpr float kUntouched = 7.0f;

// A change of random values, as it lies in memory and as numbers.
struct TrialChange {
  LowRank shape;
  std::vector<float> memory;

  float a(uint32_t r, uint32_t i) const { return memory[r * shape.row_bytes() / 4 + i]; }
  float factor(uint32_t r) const { return memory[shape.factors() / 4 + r]; }
  float b(size_t part, uint32_t r, uint32_t row) const {
    return memory[shape.b_offset(part) / 4 + uint64_t{r} * shape.parts[part].rows + row];
  }
  gpu::Range a_range(const gpu::Buffer& buffer) const { return {buffer, 0, shape.factors()}; }
  gpu::Range b_range(const gpu::Buffer& buffer) const {
    return {buffer, shape.factors(), shape.bytes() - shape.factors()};
  }
};

TrialChange trial_change(std::vector<LowRankPart> parts, uint32_t cols, uint32_t seed) {
  TrialChange change{.shape = {.parts = std::move(parts), .cols = cols}};
  TrialRandom random(seed);
  change.memory.resize(change.shape.bytes() / 4);
  const float scale = 1.0f / std::sqrt(static_cast<float>(cols));
  for (uint32_t r = 0; r < change.shape.rank(); ++r) {
    for (uint32_t i = 0; i < cols; ++i)
      change.memory[r * change.shape.row_bytes() / 4 + i] = random.next() * scale;
  }
  for (uint64_t i = change.shape.factors() / 4; i < change.memory.size(); ++i)
    change.memory[i] = random.next();
  return change;
}

// What it adds to y for h = x.
std::vector<double> difference_of(const TrialChange& change, const float* x) {
  std::vector<double> out;
  uint32_t first = 0;
  for (size_t p = 0; p < change.shape.parts.size(); ++p) {
    const auto [rank, rows] = change.shape.parts[p];
    std::vector<double> y(rows);
    for (uint32_t r = 0; r < rank; ++r) {
      double sum = 0;
      for (uint32_t i = 0; i < change.shape.cols; ++i) sum += double{change.a(first + r, i)} * x[i];
      for (uint32_t o = 0; o < rows; ++o)
        y[o] += change.factor(first + r) * sum * double{change.b(p, r, o)};
    }
    out.insert(out.end(), y.begin(), y.end());
    first += rank;
  }
  return out;
}

// After the product with its change: what the epilogue makes of it.
std::vector<double> finished(std::vector<double> y, Epilogue epilogue, uint32_t outputs,
                             const std::vector<float>& mul) {
  for (uint32_t i = 0; i < outputs; ++i) {
    if (epilogue == Epilogue::kGeglu) y[i] = trial_gelu(y[i]) * y[outputs + i];
    if (epilogue == Epilogue::kGeluMul) y[i] = trial_gelu(y[i]) * mul[i];
    if (epilogue == Epilogue::kSoftcap) y[i] = 5 * std::tanh(y[i] / 5);
  }
  y.resize(outputs);
  return y;
}

Status close(const std::vector<float>& got, const std::vector<double>& want, double tolerance,
             std::string_view what) {
  for (size_t i = 0; i < want.size(); ++i) {
    if (!(std::fabs(got[i] - want[i]) <= tolerance * std::max(1.0, std::fabs(want[i]))))
      return fail(ErrorCode::kInternal,
                  cat(what, " at ", i, ": ", got[i], " instead of ", want[i]));
  }
  return {};
}

double tolerance_of(Dot dot) { return dot == Dot::kF32 ? 3e-5 : dot == Dot::kInt16 ? 2e-4 : 4e-2; }

struct Case {
  Epilogue epilogue;
  std::vector<uint32_t> rows;   // of segments
  std::vector<uint32_t> ranks;  // of their changes
  uint32_t cols;
};

// y of one token by the matvec and what follows it.
Task<Status> expect_token(gpu::Device& device, const Case& c, const Variant& variant) {
  std::vector<TrialMatrix> matrices;
  std::vector<LowRankPart> parts;
  for (size_t i = 0; i < c.rows.size(); ++i) {
    matrices.push_back(trial_matrix(Codec::kQ8_0, c.rows[i], c.cols, 100 + i));
    parts.push_back({.rank = c.ranks[i], .rows = c.rows[i]});
  }
  CO_TRY(const TrialGroup group, co_await trial_group(device, std::move(matrices)));
  const TrialChange change = trial_change(parts, c.cols, 17);
  const uint32_t raw = change.shape.total_rows();
  const bool geglu = c.epilogue == Epilogue::kGeglu;
  const uint32_t outputs = geglu ? c.rows[0] : raw;
  const std::vector<float> x = TrialRandom(5).floats(c.cols);
  const std::vector<float> mul = TrialRandom(6).floats(raw);
  std::vector<double> want = trial_product(group, x.data());
  const std::vector<double> more = difference_of(change, x.data());
  double most = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    want[i] += more[i];
    most = std::max(most, std::fabs(more[i]));
  }
  KERNEL_EXPECT(most > 0.1, "the change is too small to be seen: ", most);
  want = finished(std::move(want), c.epilogue, outputs, mul);

  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer change_buffer, trial_buffer(device, change.memory));
  CO_TRY(const gpu::Buffer mul_buffer, trial_buffer(device, mul));
  const std::vector<float> before(raw + 3, kUntouched);
  CO_TRY(const gpu::Buffer y, trial_buffer(device, before));
  CO_TRY(const gpu::Buffer out, trial_zeros(device, outputs * 4));
  CO_TRY(const gpu::Buffer low, trial_zeros(device, change.shape.rank() * 4));
  MatvecSpec spec{.segments = group.segments, .cols = c.cols};
  MatvecSpec low_spec{.segments = {{Codec::kF32, change.shape.rank(), 0}}, .cols = c.cols};
  if (variant.light) {
    spec.tiling = light_tiling(spec);
    low_spec.tiling = light_tiling(low_spec);
  }
  CO_TRY_VOID(co_await trial_run(device, matvec_source(spec, variant), {group.buffer, y, x_buffer},
                                 matvec_groups(spec)));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(low_spec, variant),
                                 {change.a_range(change_buffer), low, x_buffer},
                                 matvec_groups(low_spec)));
  const LowRankAddSpec add{
      .change = change.shape, .epilogue = c.epilogue, .cap = 5.0f, .light = variant.light};
  std::vector<gpu::Range> ranges = {y, change.b_range(change_buffer), low};
  if (geglu) ranges.emplace_back(out);
  if (c.epilogue == Epilogue::kGeluMul) ranges.emplace_back(mul_buffer);
  CO_TRY_VOID(
      co_await trial_run(device, low_rank_add_source(add), ranges, low_rank_add_groups(add, 1)));
  CO_TRY(const std::vector<float> written, co_await trial_read<float>(device, y, before.size()));
  for (size_t i = before.size() - 3; i < before.size(); ++i)
    KERNEL_EXPECT(written[i] == kUntouched, "wrote outside, at ", i);
  CO_TRY(const std::vector<float> got,
         co_await trial_read<float>(device, geglu ? out : y, outputs));
  co_return close(got, want, tolerance_of(variant.dot),
                  cat("epilogue ", static_cast<uint32_t>(c.epilogue), " ", dot_name(variant.dot),
                      variant.subgroups ? " subgroups" : "", variant.light ? " light" : ""));
}

KERNEL_TEST(low_rank_of_a_token) {
  for (const Variant& variant : dot_variants(device)) {
    // A part without a change between two that have one; columns of more than one piece.
    CO_TRY_VOID(
        co_await expect_token(device, {Epilogue::kStore, {70, 9, 33}, {5, 0, 3}, 1152}, variant));
    CO_TRY_VOID(co_await expect_token(device, {Epilogue::kGeglu, {45, 45}, {4, 4}, 96}, variant));
  }
  const Variant plain = variants(device).front();
  CO_TRY_VOID(co_await expect_token(device, {Epilogue::kGeluMul, {40}, {17}, 64}, plain));
  CO_TRY_VOID(co_await expect_token(device, {Epilogue::kSoftcap, {130}, {1}, 32}, plain));
  // As real GPUs run it: with weights and B fetched ahead, and several rows a thread.
  Variant unrolled = unrolled_variants(device).back();
  unrolled.dot = Dot::kInt16;
  CO_TRY_VOID(co_await expect_token(device, {Epilogue::kStore, {40, 8}, {20, 20}, 64}, unrolled));
  co_return co_await expect_token(device, {Epilogue::kGeglu, {32, 32}, {4, 0}, 64}, unrolled);
}

// The vector between gate and up and down, handed over in bytes after the change.
KERNEL_TEST(low_rank_handed_over) {
  constexpr uint32_t kRows = 96;  // the last workgroup is not full
  const TrialChange change =
      trial_change({{.rank = 4, .rows = kRows}, {.rank = 2, .rows = kRows}}, 64, 17);
  const std::vector<float> x = TrialRandom(5).floats(64);
  TrialRandom random(9);
  const std::vector<float> y = random.floats(2 * kRows, 2.0f);
  std::vector<double> middle = difference_of(change, x.data());
  for (size_t i = 0; i < middle.size(); ++i) middle[i] += y[i];
  middle = finished(std::move(middle), Epilogue::kGeglu, kRows, {});
  const std::vector<float> h(middle.begin(), middle.end());
  std::vector<TrialMatrix> matrices;
  matrices.push_back(trial_matrix(Codec::kQ8_0, 37, kRows, 3));
  CO_TRY(const TrialGroup group, co_await trial_group(device, std::move(matrices)));
  const std::vector<double> want = trial_product(group, h.data());
  std::vector<float> low(change.shape.rank());
  for (uint32_t r = 0; r < low.size(); ++r) {
    double sum = 0;
    for (uint32_t i = 0; i < 64; ++i) sum += double{change.a(r, i)} * x[i];
    low[r] = static_cast<float>(sum);
  }
  CO_TRY(const gpu::Buffer y_buffer, trial_buffer(device, y));
  CO_TRY(const gpu::Buffer low_buffer, trial_buffer(device, low));
  CO_TRY(const gpu::Buffer change_buffer, trial_buffer(device, change.memory));
  for (const Variant& variant : dot_variants(device)) {
    if (variant.dot == Dot::kF32) continue;
    CO_TRY(const gpu::Buffer handed, trial_zeros(device, handed_over_bytes(kRows)));
    const LowRankAddSpec add{.change = change.shape,
                             .epilogue = Epilogue::kGeglu,
                             .quantizes = variant.dot,
                             .light = variant.light};
    CO_TRY_VOID(co_await trial_run(device, low_rank_add_source(add),
                                   {y_buffer, change.b_range(change_buffer), low_buffer, handed},
                                   low_rank_add_groups(add, 1)));
    MatvecSpec spec{.segments = group.segments, .cols = kRows, .prologue = Prologue::kQuantized};
    if (variant.light) spec.tiling = light_tiling(spec);
    CO_TRY(const gpu::Buffer out, trial_zeros(device, 37 * 4));
    CO_TRY_VOID(co_await trial_run(device, matvec_source(spec, variant),
                                   {group.buffer, out, handed}, matvec_groups(spec)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, 37));
    CO_TRY_VOID(close(got, want, 4 * tolerance_of(variant.dot), dot_name(variant.dot)));
  }
  co_return Status{};
}

// Many tokens: A by a matmul of its own, then each epilogue.
KERNEL_TEST(low_rank_of_many_tokens) {
  constexpr uint32_t kTokens = 5;
  constexpr uint32_t kCols = 70;
  const TrialChange change =
      trial_change({{.rank = 6, .rows = 45}, {.rank = 3, .rows = 45}}, kCols, 21);
  const uint32_t raw = change.shape.total_rows();
  const std::vector<float> x = TrialRandom(5).floats(size_t{kTokens} * kCols);
  const std::vector<float> y = TrialRandom(6).floats(size_t{kTokens} * raw, 2.0f);
  const std::vector<float> mul = TrialRandom(7).floats(size_t{kTokens} * raw);
  const bool light = device.info().is_software != 0;
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer mul_buffer, trial_buffer(device, mul));
  CO_TRY(const gpu::Buffer change_buffer, trial_buffer(device, change.memory));
  CO_TRY(const gpu::Buffer low, trial_zeros(device, kTokens * change.shape.rank() * 4));
  CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = kTokens}}));
  const MatmulSpec spec{
      .segments = {{Codec::kF32, change.shape.rank(), 0}}, .cols = kCols, .light = light};
  CO_TRY_VOID(co_await trial_run(device, matmul_source(spec),
                                 {change.a_range(change_buffer), low, x_buffer, step},
                                 matmul_groups(spec, kTokens)));
  for (const Epilogue epilogue :
       {Epilogue::kStore, Epilogue::kGeglu, Epilogue::kGeluMul, Epilogue::kSoftcap}) {
    const bool geglu = epilogue == Epilogue::kGeglu;
    const uint32_t outputs = geglu ? raw / 2 : raw;
    CO_TRY(const gpu::Buffer y_buffer, trial_buffer(device, y));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, size_t{kTokens} * outputs * 4));
    const LowRankAddSpec add{.change = change.shape,
                             .epilogue = epilogue,
                             .cap = 5.0f,
                             .mul_stride = raw,
                             .light = light};
    std::vector<gpu::Range> ranges = {y_buffer, change.b_range(change_buffer), low};
    if (geglu) ranges.emplace_back(out);
    if (epilogue == Epilogue::kGeluMul) ranges.emplace_back(mul_buffer);
    CO_TRY_VOID(co_await trial_run(device, low_rank_add_source(add), ranges,
                                   low_rank_add_groups(add, kTokens)));
    CO_TRY(const std::vector<float> got,
           co_await trial_read<float>(device, geglu ? out : y_buffer, size_t{kTokens} * outputs));
    for (uint32_t t = 0; t < kTokens; ++t) {
      std::vector<double> want = difference_of(change, x.data() + size_t{t} * kCols);
      for (uint32_t i = 0; i < raw; ++i) want[i] += y[size_t{t} * raw + i];
      const std::vector<float> factors(mul.begin() + t * raw, mul.begin() + (t + 1) * raw);
      want = finished(std::move(want), epilogue, outputs, factors);
      const std::vector<float> row(got.begin() + t * outputs, got.begin() + (t + 1) * outputs);
      CO_TRY_VOID(close(row, want, 3e-5, cat("token ", t, ", ", static_cast<uint32_t>(epilogue))));
    }
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
