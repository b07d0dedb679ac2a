// Training's q, k and v heads and attention over packed batches, there and back, against the
// reference tape in double.
#include <algorithm>
#include <numeric>

#include "engine/kernels/attention_train.h"
#include "engine/kernels/rope.h"
#include "tests/kernels/training_check.h"

namespace lapidary::kernels {
namespace {

using reference::Tape;
using reference::Variable;

constexpr double kTolerance = 5e-5;

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
