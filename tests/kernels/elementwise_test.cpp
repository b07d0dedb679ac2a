// The residual norm and the PLE combination against plain double loops.
#include <cmath>

#include "engine/kernels/elementwise.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial_attention.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

constexpr double kTolerance = 2e-5;

double inverse_rms(const double* x, uint32_t n, double eps) {
  double sum = 0;
  for (uint32_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return 1 / std::sqrt(sum / n + eps);
}

Task<Status> check_residual(gpu::Device& device, ResidualNormSpec spec, uint32_t tokens,
                            std::vector<Variant> forms = {}) {
  if (forms.empty()) forms = variants(device);
  const uint32_t n = spec.cols;
  TrialRandom random(n + tokens);
  const std::vector<float> x = random.floats(size_t{n} * tokens, 2.0f);
  const std::vector<float> delta = random.floats(size_t{n} * tokens, 3.0f);
  std::vector<float> site = random.floats(size_t{2} * n, 0.5f, 1.0f);
  site.push_back(0.75f);
  std::vector<double> x_new(x.begin(), x.end());
  std::vector<double> h;
  for (uint32_t t = 0; t < tokens; ++t) {
    double* row = x_new.data() + size_t{t} * n;
    if (spec.has_delta) {
      const std::vector<double> d(delta.begin() + t * n, delta.begin() + (t + 1) * n);
      const double scale = spec.has_post ? inverse_rms(d.data(), n, spec.eps) : 1.0;
      for (uint32_t i = 0; i < n; ++i) {
        row[i] = (row[i] + d[i] * scale * (spec.has_post ? site[i] : 1.0f)) * site[2 * n];
      }
    }
    const double scale = inverse_rms(row, n, spec.eps);
    for (uint32_t i = 0; i < n; ++i) h.push_back(row[i] * scale * site[n + i]);
  }
  for (Variant variant : forms) {
    const std::vector<Step> step = {{.position = 9, .tokens = tokens}};
    CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer delta_buffer, trial_buffer(device, delta));
    CO_TRY(const gpu::Buffer site_buffer, trial_buffer(device, site));
    CO_TRY(const gpu::Buffer new_buffer, trial_zeros(device, x.size() * 4));
    CO_TRY(const gpu::Buffer h_buffer, trial_zeros(device, x.size() * 4));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    std::vector<gpu::Range> ranges = {x_buffer};
    if (spec.has_delta) ranges.emplace_back(delta_buffer);
    ranges.emplace_back(site_buffer);
    if (spec.has_delta) ranges.emplace_back(new_buffer);
    if (spec.has_pre) ranges.emplace_back(h_buffer);
    ranges.emplace_back(step_buffer);
    CO_TRY_VOID(co_await trial_run(device, residual_norm_source(spec, variant), std::move(ranges),
                                   fold_groups(tokens)));
    CO_TRY(const std::vector<float> got_x,
           co_await trial_read<float>(device, new_buffer, x.size()));
    CO_TRY(const std::vector<float> got_h, co_await trial_read<float>(device, h_buffer, x.size()));
    if (spec.has_delta) {
      const double d = largest_difference(got_x, x_new);
      KERNEL_EXPECT(d < kTolerance, "x_new differs by ", d, ", subgroups ", variant.subgroups);
    }
    if (spec.has_pre) {
      const double d = largest_difference(got_h, h);
      KERNEL_EXPECT(d < kTolerance, "h differs by ", d, ", subgroups ", variant.subgroups);
    }
  }
  co_return Status{};
}

KERNEL_TEST(residual_norm_full) {
  CO_TRY_VOID(co_await check_residual(device, {.cols = 1536}, 5));
  CO_TRY_VOID(co_await check_residual(device, {.cols = 1}, 3));
  co_return co_await check_residual(device, {.cols = 33}, 1);
}
KERNEL_TEST(residual_norm_without_parts) {
  CO_TRY_VOID(co_await check_residual(device, {.cols = 300, .has_delta = false}, 2));
  CO_TRY_VOID(co_await check_residual(device, {.cols = 300, .has_pre = false}, 2));
  co_return co_await check_residual(device, {.cols = 300, .has_post = false}, 2);
}
// As real GPUs run it.
KERNEL_TEST(residual_norm_unrolled) {
  co_return co_await check_residual(device, {.cols = 300}, 3, unrolled_variants(device));
}
// More tokens than one dimension has workgroups.
KERNEL_TEST(residual_norm_many_tokens) {
  // Without norms: software GPUs take minutes for so many workgroups with barriers, and only the
  // folding is asked.
  co_return co_await check_residual(device, {.cols = 2, .has_post = false, .has_pre = false},
                                    65'600);
}

Task<Status> check_ple(gpu::Device& device, PleCombineSpec spec, uint32_t tokens,
                       std::vector<Variant> forms = {}) {
  if (forms.empty()) forms = variants(device);
  const size_t total = size_t{tokens} * spec.layers * spec.width;
  TrialRandom random(spec.width);
  const std::vector<float> ctx = random.floats(total, 30.0f);
  const std::vector<float> tok = random.floats(total);
  const std::vector<float> norm = random.floats(spec.width, 0.5f, 1.0f);
  std::vector<double> wanted;
  for (size_t row = 0; row < total; row += spec.width) {
    std::vector<double> x;
    for (uint32_t i = 0; i < spec.width; ++i) x.push_back(ctx[row + i] / std::sqrt(spec.hidden));
    const double scale = inverse_rms(x.data(), spec.width, spec.eps);
    for (uint32_t i = 0; i < spec.width; ++i) {
      wanted.push_back((x[i] * scale * norm[i] + tok[row + i]) / std::sqrt(2.0));
    }
  }
  for (Variant variant : forms) {
    const std::vector<Step> step = {{.tokens = tokens}};
    CO_TRY(const gpu::Buffer ctx_buffer, trial_buffer(device, ctx));
    CO_TRY(const gpu::Buffer tok_buffer, trial_buffer(device, tok));
    CO_TRY(const gpu::Buffer norm_buffer, trial_buffer(device, norm));
    CO_TRY(const gpu::Buffer ple, trial_zeros(device, total * 4));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    CO_TRY_VOID(co_await trial_run(device, ple_combine_source(spec, variant),
                                   {ctx_buffer, tok_buffer, norm_buffer, ple, step_buffer},
                                   {spec.layers, tokens, 1}));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, ple, total));
    const double d = largest_difference(got, wanted);
    KERNEL_EXPECT(d < kTolerance, "differs by ", d, ", subgroups ", variant.subgroups);
  }
  co_return Status{};
}

KERNEL_TEST(ple_combine) {
  CO_TRY_VOID(co_await check_ple(device, {.layers = 35, .width = 256, .hidden = 1536}, 3));
  co_return co_await check_ple(device, {.layers = 3, .width = 7, .hidden = 32}, 1);
}
KERNEL_TEST(ple_combine_unrolled) {
  co_return co_await check_ple(device, {.layers = 3, .width = 100, .hidden = 64}, 2,
                               unrolled_variants(device));
}

}  // namespace
}  // namespace lapidary::kernels
