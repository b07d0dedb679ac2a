// The way back through norms, gates, the q, k and v heads and attention, against the reference tape
// in double, whose gradients finite differences confirm on the same graph.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "engine/kernels/attention_train.h"
#include "engine/kernels/elementwise_back.h"
#include "engine/kernels/rope.h"
#include "engine/reference/tape.h"
#include "tests/kernels/training_check.h"

namespace lapidary::kernels {
namespace {

using reference::Tape;
using reference::Variable;

constexpr double kTolerance = 5e-5;
using Values = std::vector<std::vector<float>>;

// A result that the objective reads: sum over slots of seeds[slot] · values. Results of one slot
// follow each other.
struct Output {
  size_t slot;
  Variable* y;
};
using Build = std::function<std::vector<Output>(Tape&, std::span<Variable* const>)>;

struct Evaluation {
  double objective = 0;
  std::vector<std::vector<double>> outputs;    // of each slot
  std::vector<std::vector<double>> gradients;  // of the objective by each input
};

Evaluation evaluate(const Build& build, const std::vector<std::vector<double>>& inputs, size_t rows,
                    const Values& seeds) {
  Tape tape;
  std::vector<Variable*> leaves;
  for (const std::vector<double>& input : inputs) {
    leaves.push_back(tape.leaf(rows, input.size() / rows));
    leaves.back()->value = input;
  }
  Evaluation out;
  out.outputs.resize(seeds.size());
  for (const auto& [slot, y] : build(tape, leaves)) {
    const float* dy = seeds[slot].data() + out.outputs[slot].size();
    for (size_t i = 0; i < y->value.size(); ++i) {
      out.objective += dy[i] * y->value[i];
      y->gradient[i] += dy[i];
      out.outputs[slot].push_back(y->value[i]);
    }
  }
  tape.backward(tape.leaf(1, 1));  // the seeds are where gradients come from
  for (const Variable* leaf : leaves) out.gradients.push_back(leaf->gradient);
  return out;
}

// Outputs and gradients by the tape; kInternal where finite differences disagree.
Result<Evaluation> confirmed(const Build& build, const Values& inputs, size_t rows,
                             const Values& seeds) {
  std::vector<std::vector<double>> at;
  for (const std::vector<float>& input : inputs) at.emplace_back(input.begin(), input.end());
  Evaluation out = evaluate(build, at, rows, seeds);
  constexpr double kStep = 1e-5;
  TrialRandom random(77);
  for (size_t n = 0; n < at.size(); ++n) {
    for (int trial = 0; trial < 4; ++trial) {
      const size_t i = random.bits() % at[n].size();
      const double x = at[n][i];
      at[n][i] = x + kStep;
      const double above = evaluate(build, at, rows, seeds).objective;
      at[n][i] = x - kStep;
      const double below = evaluate(build, at, rows, seeds).objective;
      at[n][i] = x;
      const double slope = (above - below) / (2 * kStep);
      const double tape = out.gradients[n][i];
      if (std::fabs(slope - tape) <= 1e-5 * std::fmax(1, std::fabs(tape))) continue;
      return fail(ErrorCode::kInternal, cat("the tape's gradient of input ", n, " at ", i, " is ",
                                            tape, ", finite differences say ", slope));
    }
  }
  return out;
}

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

// The examples of a packed batch.
struct Packed {
  std::vector<uint32_t> lengths;
  uint32_t tokens() const { return std::accumulate(lengths.begin(), lengths.end(), 0u); }
  std::vector<uint32_t> spans() const {
    std::vector<uint32_t> out;
    uint32_t first = 0;
    for (const uint32_t length : lengths) {
      for (uint32_t t = 0; t < length; ++t) out.insert(out.end(), {first, first + length});
      first += length;
    }
    return out;
  }
  // The rows of each example.
  std::vector<std::vector<size_t>> rows() const {
    std::vector<std::vector<size_t>> out;
    size_t first = 0;
    for (const uint32_t length : lengths) {
      std::iota(out.emplace_back(length).begin(), out.back().end(), first);
      first += length;
    }
    return out;
  }
};

constexpr double kTheta = 10000;

Task<Status> check_qkv(gpu::Device& device, AttentionSpec spec, const Packed& batch,
                       Variant variant) {
  const uint32_t tokens = batch.tokens();
  const uint32_t dim = spec.head_dim;
  const uint32_t q_width = spec.heads * dim;
  const uint32_t kv_width = spec.kv_heads * dim;
  TrialRandom random(spec.qkv_rows());
  const std::vector<float> qkv = random.floats(size_t{tokens} * spec.qkv_rows(), 2);
  const std::vector<float> norms = random.floats(size_t{2} * dim, 0.5f, 1);
  const std::span<const float> q_norm = std::span(norms).first(dim);
  const std::span<const float> k_norm = std::span(norms).last(dim);
  std::vector<float> factors(dim / 2, 1);
  std::fill(factors.begin() + spec.rotated_pairs, factors.end(), 1e30f);
  Values seeds = {random.floats(size_t{tokens} * q_width)};
  if (!spec.shares_kv) {
    for (int i = 0; i < 2; ++i) seeds.push_back(random.floats(size_t{tokens} * kv_width));
  }
  const Build build = [&](Tape& tape, std::span<Variable* const> in) {
    std::vector<Output> out;
    for (const std::vector<size_t>& rows : batch.rows()) {
      Variable* x = tape.rows(in[0], rows);
      const auto turned = [&](Variable* raw, std::span<const float> norm) {
        return tape.rope(tape.rms_norm(raw, norm, dim, spec.eps), dim, kTheta, factors);
      };
      out.push_back({0, turned(tape.columns(x, 0, q_width), q_norm)});
      if (spec.shares_kv) continue;
      Variable* k = tape.columns(x, q_width, kv_width);
      Variable* v = spec.v_from_k ? k : tape.columns(x, q_width + kv_width, kv_width);
      out.push_back({1, turned(k, k_norm)});
      out.push_back({2, tape.rms_norm(v, {}, dim, spec.eps)});
    }
    return out;
  };
  CO_TRY(const Evaluation want, confirmed(build, {qkv}, tokens, seeds));

  const std::vector<float> table = rope_table(dim, spec.rotated_pairs, kTheta, {}, tokens);
  CO_TRY(const gpu::Buffer qkv_buffer, trial_buffer(device, qkv));
  CO_TRY(const gpu::Buffer norm_buffer, trial_buffer(device, norms));
  CO_TRY(const gpu::Buffer rope, trial_buffer(device, table));
  CO_TRY(const gpu::Buffer spans, trial_buffer(device, batch.spans()));
  CO_TRY(const gpu::Buffer dqkv, trial_buffer(device, std::vector<float>(qkv.size(), 7)));
  CO_TRY(const gpu::Buffer step, trial_params(device, Step{.tokens = tokens}));
  std::vector<gpu::Buffer> outputs, gradients;
  for (const std::vector<float>& seed : seeds) {
    CO_TRY(outputs.emplace_back(), trial_zeros(device, seed.size() * 4));
    CO_TRY(gradients.emplace_back(), trial_buffer(device, seed));
  }
  std::vector<gpu::Range> forward = {qkv_buffer, norm_buffer, rope, spans};
  std::vector<gpu::Range> back = forward;
  for (const gpu::Buffer& buffer : outputs) forward.emplace_back(buffer);
  for (const gpu::Buffer& buffer : gradients) back.emplace_back(buffer);
  forward.emplace_back(step);
  back.insert(back.end(), {dqkv, step});
  CO_TRY_VOID(co_await trial_run(device, qkv_train_source(spec, variant), std::move(forward),
                                 qkv_train_groups(spec, tokens)));
  CO_TRY_VOID(co_await trial_run(device, qkv_back_source(spec, variant), std::move(back),
                                 qkv_back_groups(spec, tokens)));
  for (size_t i = 0; i < seeds.size(); ++i) {
    CO_TRY(const std::vector<float> got,
           co_await trial_read<float>(device, outputs[i], seeds[i].size()));
    CO_TRY_VOID(expect_close(i == 0 ? "q" : i == 1 ? "k" : "v", got, want.outputs[i], kTolerance));
  }
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, dqkv, qkv.size()));
  co_return expect_close("dqkv", got, want.gradients[0], kTolerance);
}

KERNEL_TEST(training_qkv_and_back) {
  const AttentionSpec spec{.heads = 2, .kv_heads = 1, .head_dim = 36, .rotated_pairs = 11};
  // One is longer than the lower table of turns.
  const Packed batch{{3, 260, 1}};
  for (const Variant& variant : variants(device))
    CO_TRY_VOID(co_await check_qkv(device, spec, batch, variant));
  const Variant variant = variants(device).back();
  AttentionSpec other = spec;
  other.v_from_k = true;
  other.kv_heads = 2;
  other.head_dim = 130;
  other.rotated_pairs = 65;
  CO_TRY_VOID(co_await check_qkv(device, other, {{5, 2}}, variant));
  other = spec;
  other.shares_kv = true;
  co_return co_await check_qkv(device, other, {{5, 2}}, variant);
}

Task<Status> check_attention_back(gpu::Device& device, AttentionSpec spec, const Packed& batch,
                                  Variant variant) {
  const uint32_t tokens = batch.tokens();
  const size_t q_count = size_t{tokens} * spec.heads * spec.head_dim;
  const size_t kv_count = size_t{tokens} * spec.kv_heads * spec.head_dim;
  TrialRandom random(tokens + spec.head_dim);
  const Values inputs = {random.floats(q_count), random.floats(kv_count), random.floats(kv_count)};
  const std::vector<float> dout = random.floats(q_count);
  const Build build = [&](Tape& tape, std::span<Variable* const> in) {
    std::vector<Output> out;
    for (const std::vector<size_t>& rows : batch.rows()) {
      Variable* q = tape.rows(in[0], rows);
      Variable* k = tape.rows(in[1], rows);
      Variable* v = tape.rows(in[2], rows);
      out.push_back(
          {0, tape.attention({spec.heads, spec.kv_heads, spec.head_dim, spec.window}, q, k, v)});
    }
    return out;
  };
  CO_TRY(const Evaluation want, confirmed(build, inputs, tokens, {dout}));

  std::vector<gpu::Range> ranges;
  std::vector<gpu::Buffer> qkv;
  for (const std::vector<float>& input : inputs) {
    CO_TRY(qkv.emplace_back(), trial_buffer(device, input));
    ranges.emplace_back(qkv.back());
  }
  CO_TRY(const gpu::Buffer spans, trial_buffer(device, batch.spans()));
  CO_TRY(const gpu::Buffer out, trial_zeros(device, q_count * 4));
  CO_TRY(const gpu::Buffer stats, trial_zeros(device, uint64_t{8} * tokens * spec.heads));
  CO_TRY(const gpu::Buffer dout_buffer, trial_buffer(device, dout));
  CO_TRY(const gpu::Buffer dq, trial_zeros(device, q_count * 4));
  CO_TRY(const gpu::Buffer dk_part, trial_zeros(device, q_count * 4));
  CO_TRY(const gpu::Buffer dv_part, trial_zeros(device, q_count * 4));
  CO_TRY(const gpu::Buffer dk, trial_buffer(device, std::vector<float>(kv_count, 7)));
  CO_TRY(const gpu::Buffer dv, trial_buffer(device, std::vector<float>(kv_count, 7)));
  CO_TRY(const gpu::Buffer step, trial_params(device, Step{.tokens = tokens}));
  ranges.emplace_back(spans);
  const auto with = [&](std::initializer_list<gpu::Range> more) {
    std::vector<gpu::Range> all = ranges;
    all.insert(all.end(), more);
    return all;
  };
  const Groups groups = attention_train_groups(spec, tokens);
  CO_TRY_VOID(co_await trial_run(device, attention_train_source(spec, variant),
                                 with({out, stats, step}), groups));
  CO_TRY_VOID(co_await trial_run(device, attention_delta_source(spec, variant),
                                 {dout_buffer, out, stats, step},
                                 attention_delta_groups(spec, tokens)));
  CO_TRY_VOID(co_await trial_run(device, attention_back_source(spec, variant),
                                 with({dout_buffer, stats, dq, step}), groups));
  CO_TRY_VOID(co_await trial_run(device, attention_back_kv_source(spec, variant),
                                 with({dout_buffer, stats, dk_part, dv_part, step}), groups));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, q_count));
  CO_TRY_VOID(expect_close("attention", got, want.outputs[0], kTolerance));
  CO_TRY(const std::vector<float> got_dq, co_await trial_read<float>(device, dq, q_count));
  CO_TRY_VOID(expect_close("dq", got_dq, want.gradients[0], kTolerance));
  for (const bool accumulate : {false, true}) {
    CO_TRY_VOID(co_await trial_run(device, sum_heads_source(spec, accumulate),
                                   {dk_part, dv_part, dk, dv, step},
                                   sum_heads_groups(spec, tokens)));
    for (const bool is_v : {false, true}) {
      CO_TRY(const std::vector<float> sums,
             co_await trial_read<float>(device, is_v ? dv : dk, kv_count));
      std::vector<double> wanted = want.gradients[is_v ? 2 : 1];
      if (accumulate) {
        for (double& x : wanted) x *= 2;
      }
      CO_TRY_VOID(expect_close(cat(is_v ? "dv" : "dk", accumulate ? ", added" : ""), sums, wanted,
                               kTolerance));
    }
  }
  co_return Status{};
}

// Examples that end within a block of 16 queries, on its edge, and reach over several.
KERNEL_TEST(training_attention_and_back) {
  const AttentionSpec spec{.heads = 4, .kv_heads = 2, .head_dim = 36};
  for (const Variant& variant : variants(device))
    CO_TRY_VOID(co_await check_attention_back(device, spec, {{1, 31, 37, 5}}, variant));
  co_return Status{};
}
KERNEL_TEST(training_attention_and_back_in_a_window) {
  const AttentionSpec spec{.heads = 3, .kv_heads = 1, .head_dim = 66, .window = 9};
  co_return co_await check_attention_back(device, spec, {{40, 3, 16, 10}}, variants(device).back());
}
// As real GPUs run it.
KERNEL_TEST(training_attention_unrolled) {
  const AttentionSpec spec{.heads = 1, .kv_heads = 1, .head_dim = 10, .window = 20};
  co_return co_await check_attention_back(device, spec, {{35}}, unrolled_variants(device).front());
}

}  // namespace
}  // namespace lapidary::kernels
