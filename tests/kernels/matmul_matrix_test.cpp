// The matmul's matrix form, and the activations that it takes. Where no device has subgroup
// matrices, the form's kernels are refused and their text is checked by run.mjs.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/base/bytes.h"
#include "engine/gguf/codec.h"
#include "engine/kernels/quantize.h"
#include "engine/kernels/selftest.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/matmul_check.h"

namespace lapidary::kernels {
namespace {

// As halves, read back as values: token counts around a vector of scales, zeros, numbers near the
// ends of f32, a token of numbers far smaller than its largest.
KERNEL_TEST(quantize_matrix) {
  const QuantizeSpec spec{
      .cols = 544, .dot = Dot::kMatrix, .light = device.info().is_software != 0};
  CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, quantize_source(spec)));
  for (const uint32_t tokens : {1u, 6u}) {
    std::vector<float> x = TrialRandom(tokens).floats(size_t{tokens} * spec.cols, 3.0f);
    x[5] = -20.0f;
    if (tokens > 1) {
      std::fill_n(x.begin() + spec.cols, spec.cols, 0.0f);
      for (uint32_t c = 0; c < spec.cols; ++c) x[2 * spec.cols + c] *= 1e37f;
      for (uint32_t c = 0; c < spec.cols; ++c) x[3 * spec.cols + c] *= 1e-34f;
      x[4 * spec.cols + 7] = 3e7f;
    }
    const std::vector<Step> step = {{.tokens = tokens}};
    CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    const uint64_t bytes = quantized_bytes(spec.dot, spec.cols, tokens);
    CO_TRY(const gpu::Buffer out_buffer, trial_zeros(device, bytes));
    const std::vector<gpu::Range> ranges = {x_buffer, out_buffer, step_buffer};
    CO_TRY_VOID(trial_dispatch(device, kernel, ranges, quantize_groups(spec, tokens)));
    CO_TRY(const std::vector<uint32_t> out,
           co_await trial_read<uint32_t>(device, out_buffer, bytes / 4));
    for (uint32_t t = 0; t < tokens; ++t) {
      const float* values = x.data() + size_t{t} * spec.cols;
      const double scale = std::bit_cast<float>(out[size_t{tokens} * spec.cols / 2 + t]);
      double most = 0;
      for (uint32_t c = 0; c < spec.cols; ++c) most = std::max(most, std::fabs(double{values[c]}));
      KERNEL_EXPECT(std::exp2(std::round(std::log2(scale))) == scale, "token ", t, ": ", scale);
      for (uint32_t c = 0; c < spec.cols; ++c) {
        const uint32_t word = out[(size_t{t} * spec.cols + c) / 2];
        const double got = half_to_float(static_cast<uint16_t>(word >> (16 * (c % 2)))) * scale;
        const double off = std::fabs(got - values[c]);
        // Numbers below 2^-100 may be lost.
        const double may =
            std::max(std::fabs(double{values[c]}) / 1024, most * std::exp2(-37)) + std::exp2(-137);
        KERNEL_EXPECT(off <= may, "token ", t, ", column ", c, ": ", got, " instead of ",
                      values[c]);
      }
    }
  }
  co_return Status{};
}

// Where the device has no subgroup matrices, their kernel must be refused as an error of the GPU;
// run.mjs has its text checked all the same.
Task<Status> expect_matrix_product(gpu::Device& device, const TrialGroup& group, MatmulSpec spec,
                                   std::vector<uint32_t> counts, float scale = 1.0f) {
  spec.dot = Dot::kMatrix;
  spec.segments = group.segments;
  if (device.has(gpu::kFeatureMatrix))
    co_return co_await expect_product(device, group, std::move(spec), std::move(counts), scale);
  const Result<gpu::Kernel> kernel = co_await trial_kernel(device, matmul_source(spec));
  KERNEL_EXPECT(!kernel, "a device without subgroup matrices compiled them");
  KERNEL_EXPECT(
      kernel.error().code == ErrorCode::kGpu && kernel.error().message.contains("subgroup_matrix"),
      kernel.error().message);
  co_return Status{};
}

KERNEL_TEST(matmul_matrix_every_codec) {
  MatmulSpec spec{.segments = {{Codec::kQ4_0, 67},
                               {Codec::kQ5_0, 3},
                               {Codec::kQ8_0, 130},
                               {Codec::kQ4_K, 33},
                               {Codec::kQ5_K, 64},
                               {Codec::kQ6_K, 35}},
                  .cols = 512,
                  .y_stride = 340,
                  .row_offset = 6};
  CO_TRY(const TrialGroup group, co_await make_group(device, spec.segments, spec.cols));
  for (const MatmulTiling& tiling : kMatmulTilings) {
    spec.tiling = tiling;
    CO_TRY_VOID(co_await expect_matrix_product(device, group, spec, {1, 67, 130}));
  }
  co_return Status{};
}

KERNEL_TEST(matmul_matrix_more_codecs) {
  const MatmulSpec spec{.segments = {{Codec::kQ4_1, 67},
                                     {Codec::kQ5_1, 3},
                                     {Codec::kQ2_K, 130},
                                     {Codec::kQ3_K, 33},
                                     {Codec::kIQ4_NL, 5},
                                     {Codec::kIQ4_XS, 64},
                                     {Codec::kMXFP4, 35}},
                        .cols = 512};
  CO_TRY(const TrialGroup group, co_await make_group(device, spec.segments, spec.cols));
  co_return co_await expect_matrix_product(device, group, spec, {1, 67, 130});
}

KERNEL_TEST(matmul_matrix_epilogues) {
  MatmulSpec geglu{.segments = {{Codec::kQ4_K, 133}, {Codec::kQ6_K, 133}},
                   .cols = 256,
                   .epilogue = Epilogue::kGeglu};
  CO_TRY(const TrialGroup pair, co_await make_group(device, geglu.segments, geglu.cols));
  for (const MatmulTiling& tiling : kMatmulTilings) {
    geglu.tiling = tiling;
    CO_TRY_VOID(co_await expect_matrix_product(device, pair, geglu, {1, 35, 129}, 15.0f));
  }
  const MatmulSpec mul{.segments = {{Codec::kQ4_K, 67}},
                       .cols = 256,
                       .epilogue = Epilogue::kGeluMul,
                       .y_stride = 80,
                       .row_offset = 2,
                       .mul_stride = 100,
                       .mul_offset = 25};
  CO_TRY(const TrialGroup one, co_await make_group(device, mul.segments, mul.cols));
  CO_TRY_VOID(co_await expect_matrix_product(device, one, mul, {33}, 15.0f));
  const MatmulSpec cap{.segments = {{Codec::kQ8_0, 130}},
                       .cols = 96,
                       .epilogue = Epilogue::kSoftcap,
                       .cap = 3.0f,
                       .tiling = {256, 8}};
  CO_TRY(const TrialGroup head, co_await make_group(device, cap.segments, cap.cols));
  co_return co_await expect_matrix_product(device, head, cap, {3, 65}, 15.0f);
}

// Weights beyond what a half holds, in one row of one matrix of two; activations of every size.
KERNEL_TEST(matmul_matrix_of_large_weights) {
  constexpr uint32_t kCols = 64;
  std::vector<TrialMatrix> matrices = {trial_matrix(Codec::kQ8_0, 70, kCols, 1),
                                       trial_matrix(Codec::kQ8_0, 70, kCols, 2)};
  TrialMatrix& large = matrices[1];
  const uint16_t d = float_to_half(6e4f);
  std::memcpy(large.file.data() + size_t{41} * file_row_bytes(Codec::kQ8_0, kCols), &d, sizeof d);
  KERNEL_EXPECT(gguf::decode_block_row(gguf::TensorType::kQ8_0, large.file, large.values),
                "no matrix");
  CO_TRY(const TrialGroup group, co_await trial_group(device, std::move(matrices)));
  for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kGeglu}) {
    for (const float scale : {1e-8f, 1.0f, 1e8f}) {
      const MatmulSpec spec{.cols = kCols, .epilogue = epilogue, .tiling = {128, 8}};
      CO_TRY_VOID(co_await expect_matrix_product(device, group, spec, {40}, scale));
    }
  }
  co_return Status{};
}

// Asked for where the device has none, the matrix form is refused as other forms are.
KERNEL_TEST(matrix_form_needs_its_feature) {
  const auto chosen = co_await choose_variant(
      device, {.subgroups = false, .dot = Dot::kF32, .prefill = Dot::kMatrix});
  if (device.has(gpu::kFeatureMatrix)) {
    KERNEL_EXPECT(chosen && chosen->prefill == Dot::kMatrix, "not chosen");
  } else {
    KERNEL_EXPECT(!chosen && chosen.error().code == ErrorCode::kUnsupported, "not refused");
  }
  // Never a form of decoding.
  const auto decoding = co_await choose_variant(device, {.dot = Dot::kMatrix});
  KERNEL_EXPECT(!decoding && decoding.error().code == ErrorCode::kUnsupported, "not refused");
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
