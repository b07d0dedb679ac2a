// AdamW with clipping against the formulas of torch.optim.AdamW and
// torch.nn.utils.clip_grad_norm_ in f64, and the statistics of dropout.
#include <algorithm>
#include <cmath>

#include "engine/kernels/elementwise_back.h"
#include "engine/kernels/optimizer.h"
#include "tests/kernels/training_check.h"

namespace lapidary::kernels {
namespace {

// Parameters that are stepped together, as the trainer keeps them, and the same in f64.
struct Pool {
  uint32_t count = 0;
  gpu::Buffer values, gradients, moments;
  gpu::Kernel squares, step;
  std::vector<double> value, m, v;
};

struct AdamStep {
  float rate, decay_rate, clip, gradient_scale;
};

Task<Status> check_adamw(gpu::Device& device, Variant variant) {
  TrialRandom random(5);
  // One workgroup of squares that is not full, and two.
  std::vector<Pool> pools(2);
  pools[0].count = 301;
  pools[1].count = kSquaresRun + 77;
  uint32_t parts = 0;
  for (Pool& pool : pools) {
    const std::vector<float> start = random.floats(pool.count);
    pool.value.assign(start.begin(), start.end());
    pool.m.resize(pool.count);
    pool.v.resize(pool.count);
    CO_TRY(pool.values, trial_buffer(device, start));
    CO_TRY(pool.gradients, trial_zeros(device, uint64_t{4} * pool.count));
    CO_TRY(pool.moments, trial_zeros(device, uint64_t{8} * pool.count));
    CO_TRY(pool.squares,
           co_await trial_kernel(device, sum_squares_source(pool.count, parts, variant)));
    CO_TRY(pool.step, co_await trial_kernel(device, adamw_source(pool.count)));
    parts += square_parts(pool.count);
  }
  KERNEL_EXPECT(parts == 3, parts, " parts");
  CO_TRY(const gpu::Kernel norm,
         co_await trial_kernel(device, total_squares_source(parts, variant)));
  CO_TRY(const gpu::Buffer partial, trial_zeros(device, uint64_t{4} * parts));
  CO_TRY(const gpu::Buffer result, trial_buffer(device, std::vector<float>{11, 22}));

  AdamParams params{.beta1 = 0.9f, .beta2 = 0.99f};
  double power1 = 1, power2 = 1;
  // Clipped, below the limit, and without one.
  const AdamStep steps[] = {{1e-2f, 0.1f, 1, 2}, {3e-3f, 0.1f, 1e3f, 0.5f}, {2e-3f, 0, 0, 40}};
  for (const AdamStep& at : steps) {
    params.rate = at.rate;
    params.decay = at.rate * at.decay_rate;
    params.clip = at.clip;
    power1 *= double{params.beta1};
    power2 *= double{params.beta2};
    params.correction1 = static_cast<float>(1 - power1);
    params.correction2 = static_cast<float>(1 - power2);
    CO_TRY(const gpu::Buffer uniform, trial_params(device, params));
    std::vector<std::vector<float>> gradients;
    double squares = 0;
    for (const Pool& pool : pools) {
      std::vector<float>& g = gradients.emplace_back(random.floats(pool.count, at.gradient_scale));
      g[pool.count / 2] = 0;
      for (const float x : g) squares += double{x} * x;
      device.write(pool.gradients, 0, std::as_bytes(std::span(g)));
      const std::vector<gpu::Range> ranges = {pool.gradients, partial};
      CO_TRY_VOID(trial_dispatch(device, pool.squares, ranges, {square_parts(pool.count), 1, 1}));
    }
    const std::vector<gpu::Range> ranges = {partial, result};
    CO_TRY_VOID(trial_dispatch(device, norm, ranges, {}));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, result, 2));
    KERNEL_EXPECT(got[0] == 11, "the loss beside the norm became ", got[0]);
    KERNEL_EXPECT(std::fabs(got[1] - squares) <= 1e-5 * squares, "squares of ", got[1],
                  " instead of ", squares);

    const double scale =
        at.clip > 0 ? std::min(1.0, double{at.clip} / (std::sqrt(squares) + 1e-6)) : 1;
    for (size_t p = 0; p < pools.size(); ++p) {
      Pool& pool = pools[p];
      const std::vector<gpu::Range> bound = {pool.values, pool.gradients, pool.moments, result,
                                             uniform};
      CO_TRY_VOID(trial_dispatch(device, pool.step, bound, adamw_groups(pool.count)));
      CO_TRY(const std::vector<float> values,
             co_await trial_read<float>(device, pool.values, pool.count));
      CO_TRY(const std::vector<float> left,
             co_await trial_read<float>(device, pool.gradients, pool.count));
      CO_TRY(const std::vector<float> moments,
             co_await trial_read<float>(device, pool.moments, size_t{2} * pool.count));
      for (uint32_t i = 0; i < pool.count; ++i) {
        const double g = gradients[p][i] * scale;
        pool.value[i] *= 1 - double{at.rate} * at.decay_rate;
        pool.m[i] += (1 - double{params.beta1}) * (g - pool.m[i]);
        pool.v[i] = double{params.beta2} * pool.v[i] + (1 - double{params.beta2}) * g * g;
        const double denominator =
            std::sqrt(pool.v[i]) / std::sqrt(1 - power2) + double{params.epsilon};
        pool.value[i] -= at.rate / (1 - power1) * pool.m[i] / denominator;
        // Steps are about as long as the rate: an error must be small beside that.
        KERNEL_EXPECT(std::fabs(values[i] - pool.value[i]) <= 1e-4 * at.rate, pool.step.label,
                      " at ", i, ": ", values[i], " instead of ", pool.value[i]);
        const double largest = at.gradient_scale * scale;
        KERNEL_EXPECT(
            std::fabs(moments[2 * i] - pool.m[i]) <= 2e-6 * largest + 1e-5 * std::fabs(pool.m[i]),
            pool.step.label, ", first moment ", i, ": ", moments[2 * i], " instead of ", pool.m[i]);
        KERNEL_EXPECT(std::fabs(moments[2 * i + 1] - pool.v[i]) <= 2e-5 * pool.v[i] + 1e-30,
                      pool.step.label, ", second moment ", i, ": ", moments[2 * i + 1],
                      " instead of ", pool.v[i]);
        KERNEL_EXPECT(left[i] == 0, pool.step.label, ": leaves a gradient of ", left[i]);
      }
    }
  }
  co_return Status{};
}

KERNEL_TEST(training_adamw) {
  for (const Variant& variant : variants(device))
    CO_TRY_VOID(co_await check_adamw(device, variant));
  co_return Status{};
}

// dropout of x, of a seed, onto `before`.
Task<Result<std::vector<float>>> drop(gpu::Device& device, const gpu::Kernel& kernel,
                                      const DropoutSpec& spec, uint32_t seed,
                                      const std::vector<float>& x, float before) {
  const auto tokens = static_cast<uint32_t>(x.size()) / spec.cols;
  // A row more than there are tokens, which stays as it is.
  CO_TRY(const gpu::Buffer y,
         trial_buffer(device, std::vector<float>(x.size() + spec.cols, before)));
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer seed_buffer, trial_buffer(device, std::vector<uint32_t>{seed}));
  CO_TRY(const gpu::Buffer step, trial_params(device, Step{.tokens = tokens}));
  const std::vector<gpu::Range> ranges = {x_buffer, y, seed_buffer, step};
  CO_TRY_VOID(trial_dispatch(device, kernel, ranges, dropout_groups(spec, tokens)));
  CO_TRY(std::vector<float> out, co_await trial_read<float>(device, y, x.size() + spec.cols));
  for (size_t i = x.size(); i < out.size(); ++i)
    KERNEL_EXPECT(out[i] == before, kernel.label, ": writes a row too many");
  out.resize(x.size());
  co_return out;
}

// Within five standard deviations of a binomial distribution.
bool likely(size_t hits, size_t trials, double rate) {
  const auto n = static_cast<double>(trials);
  return std::fabs(static_cast<double>(hits) - n * rate) <= 5 * std::sqrt(n * rate * (1 - rate));
}

KERNEL_TEST(training_dropout) {
  const DropoutSpec spec{.cols = 301, .rate = 0.3f, .salt = 3};
  const DropoutSpec salted{.cols = 301, .rate = 0.3f, .salt = 4};
  DropoutSpec adding = spec;
  adding.accumulate = true;
  CO_TRY(const gpu::Kernel plain, co_await trial_kernel(device, dropout_source(spec)));
  CO_TRY(const gpu::Kernel other, co_await trial_kernel(device, dropout_source(salted)));
  CO_TRY(const gpu::Kernel add, co_await trial_kernel(device, dropout_source(adding)));
  const std::vector<float> x = TrialRandom(9).floats(size_t{100} * spec.cols, 1, 3);  // no zeros
  CO_TRY(const std::vector<float> first, co_await drop(device, plain, spec, 42, x, 8));
  CO_TRY(const std::vector<float> again, co_await drop(device, plain, spec, 42, x, 8));
  CO_TRY(const std::vector<float> added, co_await drop(device, add, adding, 42, x, 8));
  CO_TRY(const std::vector<float> reseeded, co_await drop(device, plain, spec, 43, x, 8));
  CO_TRY(const std::vector<float> resalted, co_await drop(device, other, salted, 42, x, 8));
  KERNEL_EXPECT(first == again, "equal seeds drop different values");

  const double rate = spec.rate;
  const size_t n = x.size();
  size_t dropped = 0, beside = 0, below = 0, with_seed = 0, with_salt = 0;
  for (size_t i = 0; i < n; ++i) {
    const bool out = first[i] == 0;
    const double want = out ? 0 : x[i] / (1 - rate);
    KERNEL_EXPECT(std::fabs(first[i] - want) <= 1e-6 * want, "value ", i, " becomes ", first[i]);
    KERNEL_EXPECT(std::fabs(added[i] - 8 - want) <= 1e-5, "added to 8, value ", i, " becomes ",
                  added[i], " instead of ", 8 + want);
    if (!out) continue;
    ++dropped;
    if (i + 1 < n) beside += first[i + 1] == 0;
    if (i + spec.cols < n) below += first[i + spec.cols] == 0;
    with_seed += reseeded[i] == 0;
    with_salt += resalted[i] == 0;
  }
  KERNEL_EXPECT(likely(dropped, n, rate), dropped, " of ", n, " dropped");
  // What else falls out says nothing about a value: neighbours, other seeds, other places.
  KERNEL_EXPECT(likely(beside, dropped, rate), beside, " neighbours of ", dropped);
  KERNEL_EXPECT(likely(below, dropped, rate), below, " of ", dropped, " in the next row");
  KERNEL_EXPECT(likely(with_seed, dropped, rate), with_seed, " of ", dropped, " by another seed");
  KERNEL_EXPECT(likely(with_salt, dropped, rate), with_salt, " of ", dropped, " by another salt");
  co_return Status{};
}

KERNEL_TEST(training_dropout_of_nothing) {
  const DropoutSpec spec{.cols = 5, .rate = 0};
  CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, dropout_source(spec)));
  const std::vector<float> x = TrialRandom(1).floats(35);
  CO_TRY(const std::vector<float> y, co_await drop(device, kernel, spec, 7, x, 1));
  KERNEL_EXPECT(x == y, "values change at rate 0");
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
