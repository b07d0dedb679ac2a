// Matmul: every codec and form, token counts around the tile's edges, epilogues, parts of a wider
// Y.
#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/kernels/quantize.h"
#include "engine/kernels/selftest.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/matmul_check.h"

namespace lapidary::kernels {
namespace {

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

// In one kernel, which software GPUs compile sooner than seven.
const std::vector<Segment> kMoreCodecs = {
    {Codec::kQ4_1, 5},   {Codec::kQ5_1, 3},   {Codec::kQ2_K, 67}, {Codec::kQ3_K, 33},
    {Codec::kIQ4_NL, 4}, {Codec::kIQ4_XS, 9}, {Codec::kMXFP4, 35}};
KERNEL_TEST(matmul_more_codecs) {
  co_return co_await expect_product(device, {.segments = kMoreCodecs, .cols = 512}, {1, 33});
}

KERNEL_TEST(matmul_odd_shapes) {
  CO_TRY_VOID(co_await expect_product(device, {.segments = {{Codec::kF16, 1}}, .cols = 1}, {1, 2}));
  CO_TRY_VOID(
      co_await expect_product(device, {.segments = {{Codec::kF32, 65}}, .cols = 35}, {31, 32}));
  co_return co_await expect_product(device, {.segments = {{Codec::kBF16, 64}}, .cols = 36}, {65});
}

// Products that every form is tested on: segments, and what comes after a product.
MatmulSpec wider_y() {
  return {.segments = {{Codec::kQ4_K, 70}, {Codec::kQ6_K, 3}, {Codec::kQ4_K, 64}},
          .cols = 256,
          .y_stride = 150,
          .row_offset = 6};
}
MatmulSpec geglu(Codec gate, Codec up) {
  return {.segments = {{gate, 45}, {up, 45}}, .cols = 256, .epilogue = Epilogue::kGeglu};
}
MatmulSpec gelu_mul(Codec codec) {
  return {.segments = {{codec, 20}},
          .cols = 64,
          .epilogue = Epilogue::kGeluMul,
          .y_stride = 23,
          .row_offset = 2,
          .mul_stride = 50,
          .mul_offset = 25};
}
MatmulSpec softcapped(Codec codec) {
  return {.segments = {{codec, 20}}, .cols = 64, .epilogue = Epilogue::kSoftcap, .cap = 3.0f};
}

KERNEL_TEST(matmul_segments_into_a_wider_y) {
  co_return co_await expect_product(device, wider_y(), {5, 40});
}

KERNEL_TEST(matmul_epilogues) {
  CO_TRY_VOID(co_await expect_product(device, geglu(Codec::kQ4_K, Codec::kQ6_K), {1, 35}, 15.0f));
  CO_TRY_VOID(co_await expect_product(device, gelu_mul(Codec::kQ8_0), {3}, 15.0f));
  co_return co_await expect_product(device, softcapped(Codec::kQ8_0), {3}, 15.0f);
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
        double halves[2] = {};
        for (uint32_t c = 0; c < 32; ++c) most = std::max(most, std::fabs(double{values[c]}));
        for (uint32_t c = 0; c < 32; ++c) {
          const int q = dot == Dot::kInt16 ? 128 * byte(0, c) + byte(2, c) : byte(0, c);
          const double off = std::fabs(q * scale - values[c]);
          KERNEL_EXPECT(off <= 1e-30 + most * (0.5 / steps + 1e-6), dot_name(dot), ", token ", t,
                        ", column ", 32 * u + c, ": ", q * scale, " instead of ", values[c]);
          total += q * scale;
          halves[c / 16] += q * scale;
        }
        KERNEL_EXPECT(std::fabs(sum - total) <= most * 1e-5, dot_name(dot), ", token ", t,
                      ", unit ", u, ": a sum of ", sum, " instead of ", total);
        for (uint32_t h = 0; h < 2; ++h) {
          const double half = std::bit_cast<float>(word(quantized_vectors(dot) - 1, 2 + h));
          KERNEL_EXPECT(std::fabs(half - halves[h]) <= most * 1e-5, dot_name(dot), ", token ", t,
                        ", unit ", u, ": a sum of ", half, " instead of ", halves[h]);
        }
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

KERNEL_TEST(matmul_integer_more_codecs) {
  const MatmulSpec spec{.segments = kMoreCodecs,
                        .cols = 512,
                        .dot = Dot::kInt16,
                        .light = device.info().is_software != 0};
  co_return co_await expect_product(device, spec, {1, 37});
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
