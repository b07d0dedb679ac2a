// The self-test of attention and of the norms around it.
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/selftest.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial_attention.h"

namespace lapidary::kernels {
namespace {

Status compare(std::string_view family, std::span<const float> got, std::span<const double> wanted,
               double tolerance) {
  const double difference = largest_difference(got, wanted);
  if (difference <= tolerance) return {};
  return fail(ErrorCode::kSelfTest,
              cat("this GPU computes ", family, " wrongly (off by ", difference,
                  "); update the graphics driver or choose another GPU"));
}

// A prompt, then one token by decode, over a ring whose window is shorter than the prompt.
Task<Status> check_attention_kernels(gpu::Device& device, Variant variant) {
  constexpr uint32_t kPrompt = 9;
  const AttentionSpec spec{.heads = 2,
                           .kv_heads = 1,
                           .head_dim = 64,
                           .window = 6,
                           .slots = 6 - 1 + kPrompt,
                           .rotated_pairs = 24};
  TrialRandom random(11);
  const std::vector<float> norms = random.floats(size_t{2} * spec.head_dim, 0.15f, 0.45f);
  const uint32_t rows = spec.qkv_rows();
  const std::vector<float> raw = random.floats(size_t{kPrompt + 1} * rows, 2.0f);
  AttentionOracle oracle(spec, norms);
  std::vector<double> wanted;
  for (uint32_t t = 0; t <= kPrompt; ++t) {
    oracle.append(raw.data() + size_t{t} * rows);
    const std::vector<double> out = oracle.attend(raw.data() + size_t{t} * rows, t);
    wanted.insert(wanted.end(), out.begin(), out.end());
  }
  CO_TRY(const TrialLayer layer, trial_layer(device, spec, norms, kPrompt, kPrompt + 1));
  const auto prompt = std::span(raw).first(size_t{kPrompt} * rows);
  const size_t width = size_t{spec.heads} * spec.head_dim;
  CO_TRY(const TrialKernels kernels, co_await trial_kernels(device, spec, variant));
  CO_TRY(const std::vector<float> batch, co_await trial_prefill(device, layer, kernels, prompt, 0));
  CO_TRY_VOID(
      compare("attention over a prompt", batch, std::span(wanted).first(kPrompt * width), 5e-4));
  const auto token = std::span(raw).subspan(size_t{kPrompt} * rows);
  CO_TRY(const std::vector<float> one,
         co_await trial_decode(device, layer, kernels.decode, token, kPrompt));
  co_return compare("attention of one token", one, std::span(wanted).subspan(kPrompt * width),
                    5e-4);
}

Task<Status> check_residual_norm(gpu::Device& device, Variant variant) {
  constexpr uint32_t kCols = 300;
  TrialRandom random(12);
  const std::vector<float> x = random.floats(kCols);
  const std::vector<float> delta = random.floats(kCols, 3.0f);
  std::vector<float> site = random.floats(2 * kCols, 0.25f, 1.0f);
  site.push_back(0.5f);
  const auto inverse_rms = [](const auto& v) {
    double sum = 0;
    for (const double value : v) sum += value * value;
    return 1 / std::sqrt(sum / static_cast<double>(v.size()) + 1e-6);
  };
  const double post = inverse_rms(delta);
  std::vector<double> wanted(kCols);
  for (uint32_t i = 0; i < kCols; ++i) wanted[i] = (x[i] + delta[i] * post * site[i]) * 0.5;
  const double pre = inverse_rms(wanted);
  for (uint32_t i = 0; i < kCols; ++i) wanted[i] *= pre * site[kCols + i];

  const std::vector<Step> step = {{}};
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer delta_buffer, trial_buffer(device, delta));
  CO_TRY(const gpu::Buffer site_buffer, trial_buffer(device, site));
  CO_TRY(const gpu::Buffer x_new, trial_zeros(device, uint64_t{4} * kCols));
  CO_TRY(const gpu::Buffer h, trial_zeros(device, uint64_t{4} * kCols));
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY_VOID(co_await trial_run(device, residual_norm_source({.cols = kCols}, variant),
                                 {x_buffer, delta_buffer, site_buffer, x_new, h, step_buffer},
                                 {1, 1, 1}));
  CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, h, kCols));
  co_return compare("the residual norm", out, wanted, 1e-4);
}

}  // namespace

Task<Status> selftest_attention(gpu::Device& device, Variant variant) {
  CO_TRY_VOID(co_await check_attention_kernels(device, variant));
  co_return co_await check_residual_norm(device, variant);
}

}  // namespace lapidary::kernels
