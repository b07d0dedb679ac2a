// Matmul: every codec, token counts around the tile's edges, epilogues, parts of a wider Y.
#include <algorithm>
#include <cmath>

#include "engine/kernels/matmul.h"
#include "engine/kernels/selftest.h"
#include "engine/kernels/selftest_matrix.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/kernel_test.h"

namespace lapidary::kernels {
namespace {

constexpr double kTolerance = 2e-5;

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
}

Task<Result<TrialGroup>> make_group(gpu::Device& device, std::vector<Segment> shapes,
                                    uint32_t cols) {
  std::vector<TrialMatrix> matrices;
  uint32_t seed = 200;
  for (const Segment& shape : shapes)
    matrices.push_back(trial_matrix(shape.codec, shape.rows, cols, seed++));
  co_return co_await trial_group(device, std::move(matrices));
}

// Runs spec for each token count with one kernel and compares every float of Y. `scale` is that of
// X.
Task<Status> expect_product(gpu::Device& device, MatmulSpec spec, std::vector<uint32_t> counts,
                            float scale = 1.0f) {
  CO_TRY(const TrialGroup group, co_await make_group(device, spec.segments, spec.cols));
  spec.segments = group.segments;
  const bool geglu = spec.epilogue == Epilogue::kGeglu;
  const uint32_t rows = geglu ? spec.segments[0].rows : total_rows(spec.segments);
  const uint32_t y_stride = spec.y_stride == 0 ? rows : spec.y_stride;
  const uint32_t mul_stride = spec.mul_stride == 0 ? rows : spec.mul_stride;
  CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, matmul_source(spec)));
  for (const uint32_t tokens : counts) {
    const std::vector<float> x = TrialRandom(tokens).floats(size_t{tokens} * spec.cols, scale);
    const std::vector<float> mul = TrialRandom(2).floats(size_t{tokens} * mul_stride);
    const std::vector<float> before(size_t{tokens} * y_stride + 3, 7.0f);
    const std::vector<Step> step = {{.tokens = tokens}};
    CO_TRY(const gpu::Buffer y, trial_buffer(device, before));
    CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer mul_buffer, trial_buffer(device, mul));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    std::vector<gpu::Range> ranges = {group.buffer, y, x_buffer};
    if (spec.epilogue == Epilogue::kGeluMul) ranges.emplace_back(mul_buffer);
    ranges.emplace_back(step_buffer);
    CO_TRY_VOID(trial_dispatch(device, kernel, ranges, matmul_groups(spec, tokens)));
    CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, y, before.size()));

    std::vector<double> want(before.begin(), before.end());
    for (uint32_t t = 0; t < tokens; ++t) {
      const std::vector<double> product = trial_product(group, x.data() + size_t{t} * spec.cols);
      for (uint32_t r = 0; r < rows; ++r) {
        double value = product[r];
        if (geglu) value = gelu(value) * product[rows + r];
        if (spec.epilogue == Epilogue::kGeluMul)
          value = gelu(value) * mul[size_t{t} * mul_stride + spec.mul_offset + r];
        if (spec.epilogue == Epilogue::kSoftcap) value = spec.cap * std::tanh(value / spec.cap);
        want[size_t{t} * y_stride + spec.row_offset + r] = value;
      }
    }
    for (size_t i = 0; i < want.size(); ++i) {
      const double slack = kTolerance * std::max(1.0, std::fabs(want[i]));
      KERNEL_EXPECT(std::fabs(out[i] - want[i]) <= slack, kernel.label, ", ", tokens,
                    " tokens, at ", i, ": ", out[i], " instead of ", want[i]);
    }
  }
  co_return Status{};
}

Task<Status> expect_codec(gpu::Device& device, Codec codec) {
  co_return co_await expect_product(device, {.segments = {{codec, 67}}, .cols = 512}, {1, 33});
}

KERNEL_TEST(matmul_f32) { co_return co_await expect_codec(device, Codec::kF32); }
KERNEL_TEST(matmul_f16) { co_return co_await expect_codec(device, Codec::kF16); }
KERNEL_TEST(matmul_bf16) { co_return co_await expect_codec(device, Codec::kBF16); }
KERNEL_TEST(matmul_q8_0) { co_return co_await expect_codec(device, Codec::kQ8_0); }
KERNEL_TEST(matmul_q4_0) { co_return co_await expect_codec(device, Codec::kQ4_0); }
KERNEL_TEST(matmul_q5_0) { co_return co_await expect_codec(device, Codec::kQ5_0); }
KERNEL_TEST(matmul_q4_k) { co_return co_await expect_codec(device, Codec::kQ4_K); }
KERNEL_TEST(matmul_q5_k) { co_return co_await expect_codec(device, Codec::kQ5_K); }
KERNEL_TEST(matmul_q6_k) { co_return co_await expect_codec(device, Codec::kQ6_K); }

KERNEL_TEST(matmul_odd_shapes) {
  CO_TRY_VOID(co_await expect_product(device, {.segments = {{Codec::kF16, 1}}, .cols = 1}, {1, 2}));
  CO_TRY_VOID(
      co_await expect_product(device, {.segments = {{Codec::kF32, 65}}, .cols = 35}, {31, 32}));
  co_return co_await expect_product(device, {.segments = {{Codec::kBF16, 64}}, .cols = 36}, {65});
}

KERNEL_TEST(matmul_segments_into_a_wider_y) {
  co_return co_await expect_product(
      device,
      {.segments = {{Codec::kQ4_K, 70}, {Codec::kQ6_K, 3}, {Codec::kQ4_K, 64}},
       .cols = 256,
       .y_stride = 150,
       .row_offset = 6},
      {5, 40});
}

KERNEL_TEST(matmul_epilogues) {
  CO_TRY_VOID(co_await expect_product(device,
                                      {.segments = {{Codec::kQ4_K, 45}, {Codec::kQ6_K, 45}},
                                       .cols = 256,
                                       .epilogue = Epilogue::kGeglu},
                                      {1, 35}, 15.0f));
  CO_TRY_VOID(co_await expect_product(device,
                                      {.segments = {{Codec::kQ8_0, 20}},
                                       .cols = 64,
                                       .epilogue = Epilogue::kGeluMul,
                                       .y_stride = 23,
                                       .row_offset = 2,
                                       .mul_stride = 50,
                                       .mul_offset = 25},
                                      {3}, 15.0f));
  co_return co_await expect_product(
      device,
      {.segments = {{Codec::kQ8_0, 20}}, .cols = 64, .epilogue = Epilogue::kSoftcap, .cap = 3.0f},
      {3}, 15.0f);
}

KERNEL_TEST(matmul_every_tiling) {
  uint32_t count = 0;
  for (const MatmulTiling& tiling : kMatmulTilings) {
    if (tiling == MatmulTiling{} || !fits(tiling, device.info().max_workgroup_storage)) continue;
    CO_TRY_VOID(co_await expect_product(device,
                                        {.segments = {{Codec::kQ8_0, 133}, {Codec::kQ8_0, 133}},
                                         .cols = 96,
                                         .epilogue = Epilogue::kGeglu,
                                         .tiling = tiling},
                                        {1, 33, 65}));
    ++count;
  }
  KERNEL_EXPECT(count > 0 || device.info().max_workgroup_storage < 32768, "no other cut fits");
  co_return Status{};
}

KERNEL_TEST(matmul_more_than_65536_rows) {
  co_return co_await expect_product(device, {.segments = {{Codec::kQ8_0, 70001}}, .cols = 32}, {2});
}

KERNEL_TEST(selftest_of_weights_passes) {
  CO_TRY_VOID(co_await selftest_weights(device, {}));
  if (device.has(gpu::kFeatureSubgroups))
    CO_TRY_VOID(co_await selftest_weights(device, {.subgroups = true}));
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
