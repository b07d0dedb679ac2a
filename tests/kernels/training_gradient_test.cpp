// The way back through norms and gates against the reference tape in double, and rows picked out.
#include <algorithm>

#include "engine/kernels/elementwise_back.h"
#include "tests/kernels/training_check.h"

namespace lapidary::kernels {
namespace {

using reference::Tape;
using reference::Variable;

constexpr double kTolerance = 5e-5;

Task<Status> check_norm(gpu::Device& device, ResidualNormSpec spec, Variant variant) {
  const uint32_t tokens = 5;
  const uint32_t cols = spec.cols;
  const size_t n = size_t{tokens} * cols;
  TrialRandom random(cols);
  std::vector<float> norms = random.floats(size_t{2} * cols, 0.5f, 1);
  norms.push_back(0.75f);
  const std::span<const float> post = std::span(norms).first(cols);
  const std::span<const float> pre = std::span(norms).subspan(cols, cols);
  const std::vector<float> old = random.floats(n, 2);
  const std::vector<float> delta = random.floats(n, 3);
  const std::vector<float> dnew = random.floats(n);
  const std::vector<float> dh = spec.has_pre ? random.floats(n) : std::vector<float>();
  const Build build = [&](Tape& tape, std::span<Variable* const> in) {
    Variable* x = in[0];
    if (spec.has_delta) {
      x = tape.add(x, spec.has_post ? tape.rms_norm(in[1], post, cols, spec.eps) : in[1]);
      x = tape.scale(x, norms.back());
    }
    std::vector<Output> out = {{0, x}};
    if (spec.has_pre) out.push_back({1, tape.rms_norm(x, pre, cols, spec.eps)});
    return out;
  };
  Values inputs = {old};
  if (spec.has_delta) inputs.push_back(delta);
  CO_TRY(const Evaluation want, confirmed(build, inputs, tokens, {dnew, dh}));

  const std::vector<float> x(want.outputs[0].begin(), want.outputs[0].end());
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer delta_buffer, trial_buffer(device, delta));
  CO_TRY(const gpu::Buffer norm_buffer, trial_buffer(device, norms));
  CO_TRY(const gpu::Buffer dh_buffer, trial_buffer(device, dh));
  CO_TRY(const gpu::Buffer dx, trial_buffer(device, dnew));
  CO_TRY(const gpu::Buffer ddelta, trial_zeros(device, n * 4));
  CO_TRY(const gpu::Buffer step, trial_params(device, Step{.position = 9, .tokens = tokens}));
  std::vector<gpu::Range> ranges = {x_buffer};
  if (spec.has_delta) ranges.emplace_back(delta_buffer);
  ranges.emplace_back(norm_buffer);
  if (spec.has_pre) ranges.emplace_back(dh_buffer);
  ranges.emplace_back(dx);
  if (spec.has_delta) ranges.emplace_back(ddelta);
  ranges.emplace_back(step);
  CO_TRY_VOID(co_await trial_run(device, residual_norm_back_source(spec, variant),
                                 std::move(ranges), fold_groups(tokens)));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, dx, n));
  CO_TRY_VOID(expect_close("dx", got, want.gradients[0], kTolerance));
  if (!spec.has_delta) co_return Status{};
  CO_TRY(const std::vector<float> got_delta, co_await trial_read<float>(device, ddelta, n));
  co_return expect_close("ddelta", got_delta, want.gradients[1], kTolerance);
}

KERNEL_TEST(training_residual_norm_back) {
  for (const Variant& variant : variants(device))
    CO_TRY_VOID(co_await check_norm(device, {.cols = 300}, variant));
  const Variant variant = variants(device).back();
  CO_TRY_VOID(co_await check_norm(device, {.cols = 33, .has_delta = false}, variant));
  CO_TRY_VOID(co_await check_norm(device, {.cols = 33, .has_pre = false}, variant));
  CO_TRY_VOID(co_await check_norm(device, {.cols = 300, .has_post = false}, variant));
  co_return co_await check_norm(device, {.cols = 33, .has_post = false, .has_pre = false}, variant);
}

Task<Status> check_gate(gpu::Device& device, GateSpec spec) {
  const uint32_t tokens = 3;
  const bool apart = spec.mul_stride != 0;
  TrialRandom random(spec.width);
  std::vector<float> z = random.floats(size_t{tokens} * spec.z_stride, 4);
  z[1] = 40;  // where tanh is flat
  z[2] = -40;
  const std::vector<float> mul = random.floats(size_t{tokens} * spec.mul_stride, 2);
  const std::vector<float> dy = random.floats(size_t{tokens} * spec.width);
  const Build build = [&](Tape& tape, std::span<Variable* const> in) {
    Variable* m = tape.columns(in[apart ? 1 : 0], spec.mul_offset, spec.width);
    return std::vector<Output>{
        {0, tape.multiply(tape.gelu(tape.columns(in[0], 0, spec.width)), m)}};
  };
  Values inputs = {z};
  if (apart) inputs.push_back(mul);
  CO_TRY(const Evaluation want, confirmed(build, inputs, tokens, {dy}));

  constexpr float kBefore = 7;
  CO_TRY(const gpu::Buffer z_buffer, trial_buffer(device, z));
  CO_TRY(const gpu::Buffer mul_buffer, trial_buffer(device, mul));
  CO_TRY(const gpu::Buffer dy_buffer, trial_buffer(device, dy));
  CO_TRY(const gpu::Buffer y, trial_zeros(device, dy.size() * 4));
  CO_TRY(const gpu::Buffer dz, trial_buffer(device, std::vector<float>(z.size(), kBefore)));
  CO_TRY(const gpu::Buffer step, trial_params(device, Step{.tokens = tokens}));
  std::vector<gpu::Range> forward = {z_buffer};
  if (apart) forward.emplace_back(mul_buffer);
  std::vector<gpu::Range> back = forward;
  forward.insert(forward.end(), {y, step});
  back.insert(back.end(), {dy_buffer, dz, step});
  const Groups groups = gate_groups(spec, tokens);
  CO_TRY_VOID(co_await trial_run(device, gate_source(spec), std::move(forward), groups));
  CO_TRY_VOID(co_await trial_run(device, gate_back_source(spec), std::move(back), groups));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, y, dy.size()));
  CO_TRY_VOID(expect_close("gate", got, want.outputs[0], kTolerance));
  CO_TRY(const std::vector<float> got_dz, co_await trial_read<float>(device, dz, z.size()));
  std::vector<double> want_dz = want.gradients[0];
  for (size_t i = 0; i < want_dz.size(); ++i) {
    const size_t c = i % spec.z_stride;
    const bool is_mul = !apart && c >= spec.mul_offset && c < spec.mul_offset + spec.width;
    if (c >= spec.width && !is_mul) want_dz[i] = kBefore;  // of no one's
  }
  co_return expect_close("dz", got_dz, want_dz, kTolerance);
}

KERNEL_TEST(training_gate_and_back) {
  CO_TRY_VOID(co_await check_gate(device, {.width = 300, .z_stride = 617, .mul_offset = 305}));
  co_return co_await check_gate(device,
                                {.width = 17, .z_stride = 17, .mul_stride = 60, .mul_offset = 23});
}

KERNEL_TEST(training_copy_rows) {
  const uint32_t cols = 261;
  const std::vector<uint32_t> rows = {6, 0, 3};
  const std::vector<float> x = TrialRandom(4).floats(size_t{7} * cols);
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer rows_buffer, trial_buffer(device, rows));
  CO_TRY(const gpu::Buffer step, trial_params(device, Step{.tokens = 3}));
  for (const bool scatter : {false, true}) {
    std::vector<float> want(x.size(), 7);
    CO_TRY(const gpu::Buffer y, trial_buffer(device, want));
    CO_TRY_VOID(co_await trial_run(device, copy_rows_source(cols, scatter),
                                   {x_buffer, rows_buffer, y, step}, copy_rows_groups(cols, 3)));
    for (size_t r = 0; r < rows.size(); ++r) {
      const size_t from = scatter ? r : rows[r];
      const size_t to = scatter ? rows[r] : r;
      std::copy_n(x.begin() + from * cols, cols, want.begin() + to * cols);
    }
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, y, want.size()));
    KERNEL_EXPECT(got == want, scatter ? "scattered" : "copied", " rows differ");
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
