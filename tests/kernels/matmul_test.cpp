// Matmul: every codec and form, token counts around the tile's edges, epilogues, parts of a wider
// Y.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/base/bytes.h"
#include "engine/gguf/codec.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/quantize.h"
#include "engine/kernels/selftest.h"
#include "engine/kernels/selftest_matrix.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/kernel_test.h"

namespace lapidary::kernels {
namespace {

constexpr double kTolerance = 2e-5;

Task<Result<TrialGroup>> make_group(gpu::Device& device, std::vector<Segment> shapes,
                                    uint32_t cols) {
  std::vector<TrialMatrix> matrices;
  uint32_t seed = 200;
  for (const Segment& shape : shapes)
    matrices.push_back(trial_matrix(shape.codec, shape.rows, cols, seed++));
  co_return co_await trial_group(device, std::move(matrices));
}

// How far quantising X may move each product: every activation moves by half a step of its unit's
// scale at most. In the matrix form X and W are halves, each off by 2^-10 of itself. Zeros for the
// float form.
std::vector<double> moves(const TrialGroup& group, const float* x, uint32_t cols, Dot dot) {
  const double steps = dot == Dot::kInt16 ? 16319 : 127;
  std::vector<double> half_step(cols);
  for (uint32_t c = 0; c < cols && dot == Dot::kMatrix; ++c)
    half_step[c] = 2.1 / 1024 * std::fabs(x[c]);
  for (uint32_t u = 0; u < cols && (dot == Dot::kInt16 || dot == Dot::kInt8); u += 32) {
    float most = 0;
    for (uint32_t c = u; c < u + 32; ++c) most = std::max(most, std::fabs(x[c]));
    std::fill_n(half_step.begin() + u, 32, most / steps / 2);
  }
  std::vector<double> out;
  for (const TrialMatrix& matrix : group.matrices) {
    for (size_t row = 0; row < matrix.rows; ++row) {
      double sum = 0;
      for (size_t c = 0; c < cols; ++c)
        sum += std::fabs(matrix.values[row * cols + c]) * half_step[c];
      out.push_back(sum);
    }
  }
  return out;
}

// Runs spec for each token count with one kernel (and one that quantises) and compares every float
// of Y. `scale` is that of X.
Task<Status> expect_product(gpu::Device& device, const TrialGroup& group, MatmulSpec spec,
                            std::vector<uint32_t> counts, float scale = 1.0f) {
  spec.segments = group.segments;
  const bool geglu = spec.epilogue == Epilogue::kGeglu;
  const bool integer = spec.dot != Dot::kF32;
  const uint32_t rows = geglu ? spec.segments[0].rows : total_rows(spec.segments);
  const uint32_t y_stride = spec.y_stride == 0 ? rows : spec.y_stride;
  const uint32_t mul_stride = spec.mul_stride == 0 ? rows : spec.mul_stride;
  CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, matmul_source(spec)));
  const QuantizeSpec quantize{spec.cols, spec.dot};
  gpu::Kernel quantizer;
  if (integer) {
    CO_TRY(quantizer, co_await trial_kernel(device, quantize_source(quantize)));
  }
  for (const uint32_t tokens : counts) {
    const std::vector<float> x = TrialRandom(tokens).floats(size_t{tokens} * spec.cols, scale);
    const std::vector<float> mul = TrialRandom(2).floats(size_t{tokens} * mul_stride);
    const std::vector<float> before(size_t{tokens} * y_stride + 3, 7.0f);
    const std::vector<Step> step = {{.tokens = tokens}};
    CO_TRY(const gpu::Buffer y, trial_buffer(device, before));
    CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer mul_buffer, trial_buffer(device, mul));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    CO_TRY(const gpu::Buffer quantized,
           trial_zeros(device, quantized_bytes(spec.dot, spec.cols, tokens)));
    if (integer) {
      const std::vector<gpu::Range> ranges = {x_buffer, quantized, step_buffer};
      CO_TRY_VOID(trial_dispatch(device, quantizer, ranges, quantize_groups(quantize, tokens)));
    }
    std::vector<gpu::Range> ranges = {group.buffer, y, integer ? quantized : x_buffer};
    if (spec.epilogue == Epilogue::kGeluMul) ranges.emplace_back(mul_buffer);
    ranges.emplace_back(step_buffer);
    CO_TRY_VOID(trial_dispatch(device, kernel, ranges, matmul_groups(spec, tokens)));
    CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, y, before.size()));

    std::vector<double> want(before.begin(), before.end());
    std::vector<double> slack(want.size());
    for (uint32_t t = 0; t < tokens; ++t) {
      const float* row = x.data() + size_t{t} * spec.cols;
      const std::vector<double> product = trial_product(group, row);
      const std::vector<double> moved = moves(group, row, spec.cols, spec.dot);
      for (uint32_t r = 0; r < rows; ++r) {
        double value = product[r];
        double move = moved[r];
        // GELU is at most 1.13 steep, the soft cap 1.
        if (geglu) {
          const double gate = trial_gelu(value);
          const double up = product[rows + r];
          value = gate * up;
          move =
              1.13 * move * (std::fabs(up) + moved[rows + r]) + std::fabs(gate) * moved[rows + r];
        }
        if (spec.epilogue == Epilogue::kGeluMul) {
          const double factor = mul[size_t{t} * mul_stride + spec.mul_offset + r];
          value = trial_gelu(value) * factor;
          move *= 1.13 * std::fabs(factor);
        }
        if (spec.epilogue == Epilogue::kSoftcap) value = spec.cap * std::tanh(value / spec.cap);
        want[size_t{t} * y_stride + spec.row_offset + r] = value;
        slack[size_t{t} * y_stride + spec.row_offset + r] = move;
      }
    }
    for (size_t i = 0; i < want.size(); ++i) {
      const double most = slack[i] + kTolerance * std::max(1.0, std::fabs(want[i]));
      KERNEL_EXPECT(std::fabs(out[i] - want[i]) <= most, kernel.label, ", ", tokens, " tokens, at ",
                    i, ": ", out[i], " instead of ", want[i], ", at most ", most, " away");
    }
  }
  co_return Status{};
}

Task<Status> expect_product(gpu::Device& device, MatmulSpec spec, std::vector<uint32_t> counts,
                            float scale = 1.0f) {
  CO_TRY(const TrialGroup group, co_await make_group(device, spec.segments, spec.cols));
  co_return co_await expect_product(device, group, std::move(spec), std::move(counts), scale);
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
    if (tiling == MatmulTiling{} || !fits(tiling, Dot::kF32, device.info().max_workgroup_storage))
      continue;
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

// What quantising makes of X, read back as values: token counts around the kernel's workgroup, a
// unit of zeros, one of numbers too small to divide by, one whose largest is negative.
Task<Status> expect_quantized(gpu::Device& device, Dot dot) {
  const QuantizeSpec spec{.cols = 128, .dot = dot};
  const double steps = dot == Dot::kInt16 ? 16319 : 127;
  CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, quantize_source(spec)));
  for (const uint32_t tokens : {1u, 67u}) {
    std::vector<float> x = TrialRandom(tokens).floats(size_t{tokens} * spec.cols, 3.0f);
    std::fill_n(x.begin() + 32, 32, 0.0f);
    std::fill_n(x.begin() + 64, 32, 1e-35f);
    x[5] = -20.0f;
    const std::vector<Step> step = {{.tokens = tokens}};
    CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    const uint64_t bytes = quantized_bytes(dot, spec.cols, tokens);
    CO_TRY(const gpu::Buffer out_buffer, trial_zeros(device, bytes));
    const std::vector<gpu::Range> ranges = {x_buffer, out_buffer, step_buffer};
    CO_TRY_VOID(trial_dispatch(device, kernel, ranges, quantize_groups(spec, tokens)));
    CO_TRY(const std::vector<uint32_t> out,
           co_await trial_read<uint32_t>(device, out_buffer, bytes / 4));
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t u = 0; u < spec.cols / 32; ++u) {
        const float* values = x.data() + size_t{t} * spec.cols + u * 32;
        const auto word = [&](uint32_t v, uint32_t i) {
          return out[(size_t{u * quantized_vectors(dot) + v} * tokens + t) * 4 + i];
        };
        const auto byte = [&](uint32_t v, uint32_t c) {
          return static_cast<int8_t>(word(v + c / 16, c % 16 / 4) >> (8 * (c % 4)));
        };
        const double scale = std::bit_cast<float>(word(quantized_vectors(dot) - 1, 0));
        const double sum = std::bit_cast<float>(word(quantized_vectors(dot) - 1, 1));
        double most = 0;
        double total = 0;
        for (uint32_t c = 0; c < 32; ++c) most = std::max(most, std::fabs(double{values[c]}));
        for (uint32_t c = 0; c < 32; ++c) {
          const int q = dot == Dot::kInt16 ? 128 * byte(0, c) + byte(2, c) : byte(0, c);
          const double off = std::fabs(q * scale - values[c]);
          KERNEL_EXPECT(off <= 1e-30 + most * (0.5 / steps + 1e-6), dot_name(dot), ", token ", t,
                        ", column ", 32 * u + c, ": ", q * scale, " instead of ", values[c]);
          total += q * scale;
        }
        KERNEL_EXPECT(std::fabs(sum - total) <= most * 1e-5, dot_name(dot), ", token ", t,
                      ", unit ", u, ": a sum of ", sum, " instead of ", total);
      }
    }
  }
  co_return Status{};
}

KERNEL_TEST(quantize_int16) { co_return co_await expect_quantized(device, Dot::kInt16); }
KERNEL_TEST(quantize_int8) { co_return co_await expect_quantized(device, Dot::kInt8); }

// Every format with integer quants in one group: scales by half (Q6_K) and minima (Q4_K, Q5_K) are
// computed for all of them then. Software GPUs compile this for 7 to 10 s: the other cuts, which
// the formats do not know of, have tests of their own below.
KERNEL_TEST(matmul_integer_every_codec) {
  const bool light = device.info().is_software != 0;
  MatmulSpec spec{.segments = {{Codec::kQ4_0, 67},
                               {Codec::kQ5_0, 3},
                               {Codec::kQ8_0, 130},
                               {Codec::kQ4_K, 33},
                               {Codec::kQ5_K, 64},
                               {Codec::kQ6_K, 35}},
                  .cols = 512,
                  .y_stride = 340,
                  .row_offset = 6,
                  .light = light};
  CO_TRY(const TrialGroup group, co_await make_group(device, spec.segments, spec.cols));
  for (const Dot dot : {Dot::kInt16, Dot::kInt8}) {
    for (const MatmulTiling& tiling : kMatmulTilings) {
      if (light && (tiling != MatmulTiling{} || dot != Dot::kInt16)) continue;
      spec.tiling = tiling;
      spec.dot = dot;
      CO_TRY_VOID(co_await expect_product(device, group, spec, {1, 37}));
    }
  }
  co_return Status{};
}

// Neither scales by half nor minima; 128 rows by 64 tokens.
KERNEL_TEST(matmul_integer_softcap) {
  co_return co_await expect_product(device,
                                    {.segments = {{Codec::kQ4_0, 20}, {Codec::kQ8_0, 130}},
                                     .cols = 96,
                                     .epilogue = Epilogue::kSoftcap,
                                     .cap = 3.0f,
                                     .tiling = {256, 8},
                                     .dot = Dot::kInt16,
                                     .light = device.info().is_software != 0},
                                    {3, 65}, 15.0f);
}

// One byte; 128 rows by 32 tokens.
KERNEL_TEST(matmul_integer_geglu) {
  co_return co_await expect_product(device,
                                    {.segments = {{Codec::kQ4_K, 133}, {Codec::kQ6_K, 133}},
                                     .cols = 256,
                                     .epilogue = Epilogue::kGeglu,
                                     .tiling = {128, 8},
                                     .dot = Dot::kInt8,
                                     .light = device.info().is_software != 0},
                                    {1, 35}, 15.0f);
}

// As real GPUs get it. Minima, but no scales by half.
KERNEL_TEST(matmul_integer_unrolled_gelu_mul) {
  co_return co_await expect_product(device,
                                    {.segments = {{Codec::kQ4_K, 67}},
                                     .cols = 256,
                                     .epilogue = Epilogue::kGeluMul,
                                     .y_stride = 80,
                                     .row_offset = 2,
                                     .mul_stride = 100,
                                     .mul_offset = 25,
                                     .dot = Dot::kInt16},
                                    {33}, 15.0f);
}

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
