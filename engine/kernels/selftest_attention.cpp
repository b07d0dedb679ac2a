// Self-test of attention: decode and prefill over the same tokens must both equal plain loops.
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/rope.h"
#include "engine/kernels/selftest.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kTokens = 5;
constexpr double kTheta = 10000.0;

AttentionSpec trial_spec() {
  return {.heads = 2,
          .kv_heads = 1,
          .head_dim = 32,
          .window = 3,
          .slots = 8,
          .rotated_pairs = 16,
          .kv_f32 = true};
}

using Vector = std::vector<double>;

// rms(x) * weight, then rope at `position` where weight is given.
Vector normed(const AttentionSpec& spec, const float* x, const float* weight, uint32_t position) {
  const uint32_t n = spec.head_dim;
  double sum = 0;
  for (uint32_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  const double scale = 1.0 / std::sqrt(sum / n + spec.eps);
  Vector out(n);
  for (uint32_t i = 0; i < n; ++i) out[i] = x[i] * scale * (weight == nullptr ? 1.0 : weight[i]);
  for (uint32_t i = 0; weight != nullptr && i < n / 2; ++i) {
    const double angle = position * std::pow(kTheta, -2.0 * i / n);
    const double a = out[i];
    const double b = out[i + n / 2];
    out[i] = a * std::cos(angle) - b * std::sin(angle);
    out[i + n / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
  return out;
}

// The outputs [kTokens][heads][head_dim] of one sliding layer.
std::vector<double> expected(const AttentionSpec& spec, const std::vector<float>& qkv,
                             const std::vector<float>& norms) {
  const uint32_t n = spec.head_dim;
  std::vector<double> out;
  std::vector<Vector> keys, values;
  for (uint32_t t = 0; t < kTokens; ++t) {
    const float* row = qkv.data() + t * spec.qkv_rows();
    keys.push_back(normed(spec, row + spec.heads * n, norms.data() + n, t));
    values.push_back(normed(spec, row + (spec.heads + 1) * n, nullptr, t));
    for (uint32_t head = 0; head < spec.heads; ++head) {
      const Vector q = normed(spec, row + head * n, norms.data(), t);
      const uint32_t first = t + 1 > spec.window ? t + 1 - spec.window : 0;
      double mass = 0;
      Vector sum(n, 0.0);
      for (uint32_t key = first; key <= t; ++key) {
        double score = 0;
        for (uint32_t i = 0; i < n; ++i) score += q[i] * keys[key][i];
        const double weight = std::exp(score);
        mass += weight;
        for (uint32_t i = 0; i < n; ++i) sum[i] += weight * values[key][i];
      }
      for (const double x : sum) out.push_back(x / mass);
    }
  }
  return out;
}

Status wrong(std::string_view what, double got, double want) {
  return fail(ErrorCode::kSelfTest, cat("this GPU computes ", what, " wrongly (", got,
                                        " instead of ", want, "); update its driver"));
}

}  // namespace

Task<Status> selftest_attention(gpu::Device& device, Variant variant) {
  const AttentionSpec spec = trial_spec();
  const uint32_t width = spec.heads * spec.head_dim;
  const uint32_t row = spec.qkv_rows();
  const std::vector<float> qkv = TrialRandom(11).floats(kTokens * row);
  const std::vector<float> norms = TrialRandom(12).floats(2 * spec.head_dim, 0.3f, 0.4f);
  const std::vector<double> want = expected(spec, qkv, norms);

  CO_TRY(const gpu::Buffer norm_buffer, trial_buffer(device, norms));
  CO_TRY(const gpu::Buffer rope, trial_buffer(device, rope_table(spec.head_dim, spec.rotated_pairs,
                                                                 kTheta, {}, spec.slots)));
  CO_TRY(const gpu::Buffer k, trial_zeros(device, kv_cache_bytes(spec)));
  CO_TRY(const gpu::Buffer v, trial_zeros(device, kv_cache_bytes(spec)));
  CO_TRY(const gpu::Buffer partial, trial_zeros(device, uint64_t{width} * spec.max_splits * 4));
  CO_TRY(const gpu::Buffer stats, trial_zeros(device, uint64_t{spec.heads} * spec.max_splits * 8));
  for (uint32_t t = 0; t < kTokens; ++t) {
    const std::vector<Step> step = {{.position = t}};
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    CO_TRY(const gpu::Buffer token,
           trial_buffer(device, std::as_bytes(std::span(qkv).subspan(size_t{t} * row, row))));
    CO_TRY_VOID(co_await trial_run(device, attention_decode_source(spec, variant),
                                   {token, norm_buffer, rope, k, v, partial, stats, step_buffer},
                                   attention_decode_groups(spec, t)));
    CO_TRY(const std::vector<float> sums, co_await trial_read<float>(device, partial, width));
    CO_TRY(const std::vector<float> masses,
           co_await trial_read<float>(device, stats, spec.heads * 2));
    for (uint32_t i = 0; i < width; ++i) {
      const double got = sums[i] / masses[i / spec.head_dim * 2 + 1];
      if (!(std::fabs(got - want[t * width + i]) <= 1e-4))
        co_return wrong("attention of one token", got, want[t * width + i]);
    }
  }

  const std::vector<Step> step = {{.tokens = kTokens}};
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY(const gpu::Buffer batch, trial_buffer(device, qkv));
  CO_TRY(const gpu::Buffer out, trial_zeros(device, uint64_t{kTokens} * width * 4));
  CO_TRY_VOID(co_await trial_run(device, qkv_post_source(spec, variant),
                                 {batch, norm_buffer, rope, k, v, step_buffer},
                                 qkv_post_groups(spec, kTokens)));
  CO_TRY_VOID(co_await trial_run(device, attention_prefill_source(spec, variant),
                                 {batch, k, v, out, step_buffer},
                                 attention_prefill_groups(spec, kTokens)));
  CO_TRY(const std::vector<float> got,
         co_await trial_read<float>(device, out, size_t{kTokens} * width));
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::fabs(got[i] - want[i]) <= 1e-4))
      co_return wrong("attention of a prompt", got[i], want[i]);
  }
  co_return Status{};
}

}  // namespace lapidary::kernels
