// Products of training against f64 loops: gemm in every transposition that the trainer records, and
// the way back through matrices of every codec.
#include <algorithm>
#include <cmath>

#include "engine/kernels/gemm.h"
#include "engine/kernels/matmul_back.h"
#include "tests/kernels/matmul_check.h"
#include "tests/kernels/training_check.h"

namespace lapidary::kernels {
namespace {

constexpr double kTolerance = 2e-5;

// One past the last float of a matrix.
size_t extent(uint32_t offset, uint32_t rows, uint32_t row, uint32_t cols, uint32_t col) {
  return size_t{offset} + size_t{rows - 1} * row + size_t{cols - 1} * col + 1;
}

// Two kernels serve all specs: `thin` for a side of 16 or less, `wide` for the others.
struct GemmKernels {
  gpu::Kernel thin, wide;
};
Task<Result<GemmKernels>> gemm_kernels(gpu::Device& device, Variant variant) {
  GemmKernels kernels;
  CO_TRY(kernels.thin, co_await trial_kernel(device, gemm_source({.n = 16}, variant)));
  CO_TRY(kernels.wide, co_await trial_kernel(device, gemm_source({.n = 17}, variant)));
  co_return std::move(kernels);
}

Task<Status> check_gemm(gpu::Device& device, const GemmKernels& kernels, GemmSpec spec,
                        uint32_t tokens) {
  const auto of = [&](uint32_t value) { return value == kTokens ? tokens : value; };
  const uint32_t m = of(spec.m);
  const uint32_t n = of(spec.n);
  const uint32_t k = of(spec.k);
  const auto is_thin = [](uint32_t value) { return value != kTokens && value <= 16; };
  const bool thin = is_thin(spec.m) || is_thin(spec.n);
  const gpu::Kernel& kernel = thin ? kernels.thin : kernels.wide;
  TrialRandom random(m + 7 * n + 31 * k);
  const std::vector<float> a = random.floats(extent(spec.a_offset, m, spec.a_m, k, spec.a_k));
  const std::vector<float> b = random.floats(extent(spec.b_offset, n, spec.b_n, k, spec.b_k));
  // More than C is, to see that nothing else is written.
  const std::vector<float> c = random.floats(extent(spec.c_offset, m, spec.c_m, n, 1) + 70, 3);
  std::vector<double> want(c.begin(), c.end());
  for (uint32_t i = 0; i < m; ++i) {
    for (uint32_t j = 0; j < n; ++j) {
      double sum = 0;
      for (uint32_t t = 0; t < k; ++t)
        sum += double{a[spec.a_offset + size_t{i} * spec.a_m + size_t{t} * spec.a_k]} *
               b[spec.b_offset + size_t{j} * spec.b_n + size_t{t} * spec.b_k];
      double& to = want[spec.c_offset + size_t{i} * spec.c_m + j];
      to = (spec.accumulate != 0 ? to : 0) + spec.alpha * sum;
    }
  }
  CO_TRY(const gpu::Buffer a_buffer, trial_buffer(device, a));
  CO_TRY(const gpu::Buffer b_buffer, trial_buffer(device, b));
  CO_TRY(const gpu::Buffer c_buffer, trial_buffer(device, c));
  CO_TRY(const gpu::Buffer shape, trial_params(device, spec));
  CO_TRY(const gpu::Buffer step, trial_params(device, Step{.tokens = tokens}));
  const std::vector<gpu::Range> ranges = {a_buffer, b_buffer, c_buffer, shape, step};
  CO_TRY_VOID(trial_dispatch(device, kernel, ranges, gemm_groups(spec, tokens)));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, c_buffer, c.size()));
  co_return expect_close(
      cat(kernel.label, " of ", m, " x ", n, " x ", k, spec.accumulate != 0 ? ", added" : ""), got,
      want, kTolerance);
}

// The products of an adapter of `rank` on a matrix of `inputs` and `outputs` (those of a fused
// projection whose rows are `stride` floats, from `offset` on).
Task<Status> check_adapter(gpu::Device& device, const GemmKernels& kernels, uint32_t rank,
                           uint32_t tokens) {
  const uint32_t inputs = 67, outputs = 131, stride = 150, offset = 9;
  const GemmSpec specs[] = {
      // p = x A^T
      {.n = rank, .k = inputs, .a_m = inputs, .b_n = inputs, .c_m = rank},
      // y += alpha p B^T
      {.n = outputs,
       .k = rank,
       .a_m = rank,
       .b_offset = 3,
       .b_n = rank,
       .c_offset = offset,
       .c_m = stride,
       .alpha = 0.5f,
       .accumulate = 1},
      // dp = alpha dy B
      {.n = rank,
       .k = outputs,
       .a_offset = offset,
       .a_m = stride,
       .b_offset = 5,
       .b_n = 1,
       .b_k = rank,
       .c_m = rank,
       .alpha = 2},
      // dB += alpha dy^T p
      {.m = outputs,
       .n = rank,
       .a_offset = offset,
       .a_m = 1,
       .a_k = stride,
       .b_n = 1,
       .b_k = rank,
       .c_offset = 2,
       .c_m = rank,
       .alpha = 2,
       .accumulate = 1},
      // dA += dp^T x
      {.m = rank,
       .n = inputs,
       .a_m = 1,
       .a_k = rank,
       .b_n = 1,
       .b_k = inputs,
       .c_m = inputs,
       .accumulate = 1},
      // dx = dp A
      {.n = inputs, .k = rank, .a_m = rank, .b_n = 1, .b_k = inputs, .c_m = inputs},
  };
  for (const GemmSpec& spec : specs) {
    CO_TRY_VOID(co_await check_gemm(device, kernels, spec, tokens));
    GemmSpec other = spec;
    other.accumulate = 1 - spec.accumulate;
    CO_TRY_VOID(co_await check_gemm(device, kernels, other, tokens));
  }
  co_return Status{};
}

KERNEL_TEST(training_gemm) {
  CO_TRY(const GemmKernels kernels, co_await gemm_kernels(device, variants(device).front()));
  for (const uint32_t rank : {1u, 17u})
    CO_TRY_VOID(co_await check_adapter(device, kernels, rank, 1));
  for (const uint32_t rank : {16u, 70u})
    CO_TRY_VOID(co_await check_adapter(device, kernels, rank, 65));
  co_return Status{};
}
// As real GPUs run it.
KERNEL_TEST(training_gemm_unrolled) {
  CO_TRY(const GemmKernels kernels,
         co_await gemm_kernels(device, unrolled_variants(device).front()));
  for (const uint32_t rank : {5u, 33u})
    CO_TRY_VOID(co_await check_adapter(device, kernels, rank, 19));
  co_return Status{};
}

// dX of so many tokens each; with a window for each first row, too.
Task<Status> check_back(gpu::Device& device, MatmulBackSpec spec, std::vector<uint32_t> counts,
                        std::vector<uint32_t> firsts = {0}) {
  CO_TRY(const TrialGroup group, co_await make_group(device, spec.segments, spec.cols));
  spec.segments = group.segments;
  const bool light = device.info().is_software != 0;
  CO_TRY(const gpu::Kernel kernel,
         co_await trial_kernel(device, matmul_back_source(spec, {.light = light})));
  std::vector<float> w;
  for (const TrialMatrix& matrix : group.matrices)
    w.insert(w.end(), matrix.values.begin(), matrix.values.end());
  const auto rows = static_cast<uint32_t>(w.size() / spec.cols);
  const uint32_t width = spec.window != 0 ? spec.window : rows;
  for (size_t run = 0; run < counts.size() * firsts.size(); ++run) {
    const uint32_t tokens = counts[run / firsts.size()];
    const uint32_t first = firsts[run % firsts.size()];
    const std::vector<float> dy = TrialRandom(tokens + first).floats(size_t{tokens} * width);
    const std::vector<float> before(size_t{tokens + 1} * spec.cols, 7);
    std::vector<double> want(before.begin(), before.end());
    for (uint32_t t = 0; t < tokens; ++t) {
      double* row = want.data() + size_t{t} * spec.cols;
      if (!spec.accumulate) std::fill_n(row, spec.cols, 0);
      for (uint32_t r = 0; r < width && first + r < rows; ++r) {
        for (uint32_t c = 0; c < spec.cols; ++c)
          row[c] += double{dy[size_t{t} * width + r]} * w[size_t{first + r} * spec.cols + c];
      }
    }
    CO_TRY(const gpu::Buffer dx, trial_buffer(device, before));
    CO_TRY(const gpu::Buffer dy_buffer, trial_buffer(device, dy));
    CO_TRY(const gpu::Buffer step, trial_params(device, Step{.position = first, .tokens = tokens}));
    const std::vector<gpu::Range> ranges = {group.buffer, dx, dy_buffer, step};
    CO_TRY_VOID(trial_dispatch(device, kernel, ranges, matmul_back_groups(spec, tokens)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, dx, before.size()));
    CO_TRY_VOID(expect_close(cat(kernel.label, " from ", first, ", ", tokens, " tokens"), got, want,
                             kTolerance));
  }
  co_return Status{};
}

// Software GPUs compile these kernels for seconds: all codecs are in two, the floats beside columns
// that fill no vector.
KERNEL_TEST(training_matmul_back_floats) {
  co_return co_await check_back(
      device, {.segments = {{Codec::kF32, 17}, {Codec::kBF16, 3}, {Codec::kF16, 32}}, .cols = 35},
      {65});
}
KERNEL_TEST(training_matmul_back_blocks) {
  co_return co_await check_back(device,
                                {.segments = {{Codec::kQ4_K, 19},
                                              {Codec::kQ6_K, 5},
                                              {Codec::kQ8_0, 1},
                                              {Codec::kQ4_0, 33},
                                              {Codec::kQ5_0, 16},
                                              {Codec::kQ5_K, 7},
                                              {Codec::kQ4_K, 1}},
                                 .cols = 256,
                                 .accumulate = true},
                                {3, 64});
}
KERNEL_TEST(training_matmul_back_more_blocks) {
  co_return co_await check_back(device,
                                {.segments = {{Codec::kQ4_1, 3},
                                              {Codec::kQ5_1, 5},
                                              {Codec::kQ2_K, 19},
                                              {Codec::kQ3_K, 7},
                                              {Codec::kIQ4_NL, 2},
                                              {Codec::kIQ4_XS, 16},
                                              {Codec::kMXFP4, 33}},
                                 .cols = 256},
                                {5});
}
// The last window reaches beyond the matrix, which has no whole number of tiles.
KERNEL_TEST(training_matmul_back_window) {
  co_return co_await check_back(
      device, {.segments = {{Codec::kQ8_0, 101}}, .cols = 160, .window = 40}, {5, 66}, {0, 40, 80});
}

// Forward: rows of the window that the matrix does not have are not written.
Task<Status> check_window(gpu::Device& device, Codec codec, uint32_t cols) {
  CO_TRY(const TrialGroup group, co_await make_group(device, {{codec, 101}}, cols));
  const MatmulSpec spec{.segments = group.segments,
                        .cols = cols,
                        .y_stride = 45,
                        .window = 40,
                        .light = device.info().is_software != 0};
  CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, matmul_source(spec)));
  const uint32_t tokens = 33;
  const std::vector<float> x = TrialRandom(3).floats(size_t{tokens} * cols);
  for (const uint32_t first : {0u, 40u, 80u}) {
    const std::vector<float> before(size_t{tokens} * spec.y_stride, 7);
    std::vector<double> want(before.begin(), before.end());
    for (uint32_t t = 0; t < tokens; ++t) {
      const std::vector<double> product = trial_product(group, x.data() + size_t{t} * cols);
      for (uint32_t r = 0; r < spec.window && first + r < product.size(); ++r)
        want[size_t{t} * spec.y_stride + r] = product[first + r];
    }
    CO_TRY(const gpu::Buffer y, trial_buffer(device, before));
    CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer step, trial_params(device, Step{.position = first, .tokens = tokens}));
    const std::vector<gpu::Range> ranges = {group.buffer, y, x_buffer, step};
    CO_TRY_VOID(trial_dispatch(device, kernel, ranges, matmul_groups(spec, tokens)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, y, before.size()));
    CO_TRY_VOID(expect_close(cat(kernel.label, " from ", first), got, want, kTolerance));
  }
  co_return Status{};
}
KERNEL_TEST(training_matmul_window) { co_return co_await check_window(device, Codec::kQ5_0, 96); }

}  // namespace
}  // namespace lapidary::kernels
