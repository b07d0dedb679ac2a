// Mixtures of experts against double loops: who is chosen, the products of those chosen (every
// codec, matvec and matmul), and what becomes of their outputs.
#include "engine/kernels/experts.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "engine/kernels/matmul.h"
#include "engine/kernels/matvec.h"
#include "engine/kernels/quantize.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/groups.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

// --- Who is chosen ---

Task<Status> expect_choice(gpu::Device& device, ChooseExpertsSpec spec, uint32_t tokens,
                           const Variant& variant) {
  TrialRandom random(spec.count);
  std::vector<float> logits = random.floats(size_t{tokens} * spec.count, 4.0f);
  // Equals, a token whose best are almost all, one that leaves nearly nothing to those chosen.
  for (uint32_t e = 0; e < spec.count; e += 2) logits[e] = 0.5f;
  if (tokens > 2) logits[spec.count + spec.count / 2] = 90.0f;
  const std::vector<float> scales = random.floats(spec.count, 0.5f, 1.0f);
  const std::vector<Step> step = {{.tokens = tokens}};
  CO_TRY(const gpu::Buffer logits_buffer, trial_buffer(device, logits));
  CO_TRY(const gpu::Buffer scales_buffer, trial_buffer(device, scales));
  CO_TRY(const gpu::Buffer chosen, trial_zeros(device, chosen_bytes(spec.used, tokens)));
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY_VOID(co_await trial_run(device, choose_experts_source(spec, variant),
                                 {logits_buffer, scales_buffer, chosen, step_buffer},
                                 fold_groups(tokens)));
  CO_TRY(const std::vector<uint32_t> got,
         co_await trial_read<uint32_t>(device, chosen, size_t{tokens} * spec.used * 2));
  for (uint32_t t = 0; t < tokens; ++t) {
    const float* row = logits.data() + size_t{t} * spec.count;
    std::vector<uint32_t> order(spec.count);
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::stable_sort(order, [&](uint32_t a, uint32_t b) { return row[a] > row[b]; });
    double all = 0;
    double best = 0;
    for (uint32_t i = 0; i < spec.count; ++i) {
      const double value = std::exp(double{row[order[i]]} - row[order[0]]);
      all += value;
      if (i < spec.used) best += value;
    }
    for (uint32_t i = 0; i < spec.used; ++i) {
      const uint32_t* pair = got.data() + (size_t{t} * spec.used + i) * 2;
      const double want = std::exp(double{row[order[i]]} - row[order[0]]) / all /
                          std::max(best / all, 0x1p-14) * scales[order[i]];
      KERNEL_EXPECT(pair[0] == order[i], "token ", t, ": ", pair[0], " instead of ", order[i]);
      const double off = std::fabs(std::bit_cast<float>(pair[1]) - want);
      KERNEL_EXPECT(off < 2e-6, "token ", t, ", expert ", pair[0], " is ", off, " off");
    }
  }
  co_return Status{};
}

KERNEL_TEST(choose_experts) {
  for (const Variant& variant : variants(device)) {
    CO_TRY_VOID(co_await expect_choice(device, {.count = 128, .used = 8}, 5, variant));
    CO_TRY_VOID(co_await expect_choice(device, {.count = 8, .used = 2}, 1, variant));
  }
  const Variant variant = variants(device).front();
  CO_TRY_VOID(co_await expect_choice(device, {.count = 1, .used = 1}, 3, variant));
  co_return co_await expect_choice(device, {.count = 1000, .used = 1000}, 2, variant);
}
KERNEL_TEST(choose_experts_unrolled) {
  for (const Variant& variant : unrolled_variants(device))
    CO_TRY_VOID(co_await expect_choice(device, {.count = 40, .used = 3}, 3, variant));
  co_return Status{};
}

// Whatever the logits are, every place has an expert of its own: nothing is read out of bounds.
KERNEL_TEST(choose_experts_of_no_numbers) {
  const ChooseExpertsSpec spec{.count = 24, .used = 5};
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> logits(size_t{4} * spec.count, kNan);
  std::fill_n(logits.begin() + spec.count, spec.count, kInf);
  std::fill_n(logits.begin() + 2 * spec.count, spec.count, -kInf);
  logits[3 * spec.count + 7] = 1.0f;
  const std::vector<Step> step = {{.tokens = 4}};
  CO_TRY(const gpu::Buffer logits_buffer, trial_buffer(device, logits));
  CO_TRY(const gpu::Buffer scales, trial_buffer(device, std::vector<float>(spec.count, 1.0f)));
  CO_TRY(const gpu::Buffer chosen,
         trial_buffer(device, std::vector<uint32_t>(size_t{4} * spec.used * 2, 999u)));
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY_VOID(co_await trial_run(device, choose_experts_source(spec, variants(device).front()),
                                 {logits_buffer, scales, chosen, step_buffer}, fold_groups(4)));
  CO_TRY(const std::vector<uint32_t> got,
         co_await trial_read<uint32_t>(device, chosen, size_t{4} * spec.used * 2));
  for (uint32_t t = 0; t < 4; ++t) {
    std::set<uint32_t> places;
    for (uint32_t i = 0; i < spec.used; ++i) places.insert(got[(t * spec.used + i) * 2]);
    KERNEL_EXPECT(places.size() == spec.used && *places.rbegin() < spec.count, "token ", t);
  }
  KERNEL_EXPECT(got[size_t{3} * spec.used * 2] == 7, "the only number is not the best");
  co_return Status{};
}

// --- Products ---

constexpr uint32_t kExperts = 3;
constexpr uint32_t kUsed = 2;

// Of each matrix rows [first_row, first_row + rows) are an expert's, every `stride` rows.
struct Mixture {
  TrialGroup group;
  ExpertRows experts;
};

Task<Result<Mixture>> make_mixture(gpu::Device& device, std::vector<Segment> segments,
                                   uint32_t stride, uint32_t cols, bool shared_input) {
  Mixture made{.experts = {.used = kUsed,
                           .stride = stride,
                           .count = kExperts,
                           .shared_input = shared_input,
                           .all = kExperts}};
  std::vector<Segment> whole = segments;
  for (Segment& segment : whole) segment.rows = kExperts * stride;
  CO_TRY(made.group, co_await make_group(device, whole, cols));
  for (size_t i = 0; i < segments.size(); ++i) {
    segments[i].offset = made.group.segments[i].offset;
    segments[i].matrix_rows = kExperts * stride;
  }
  made.group.segments = std::move(segments);
  co_return std::move(made);
}

// Expert 2 has a row of every token.
std::vector<uint32_t> routes_of(uint32_t tokens) {
  std::vector<uint32_t> routes;
  for (uint32_t t = 0; t < tokens; ++t) {
    routes.insert(routes.end(), {2, 0, t % 3 == 1 ? 1u : 0u, 0});
    if (t % 2 == 1) std::swap(routes[routes.size() - 4], routes[routes.size() - 2]);
  }
  return routes;
}

double product(const Mixture& mixture, size_t segment, uint32_t expert, uint32_t row,
               const float* x) {
  const TrialMatrix& matrix = mixture.group.matrices[segment];
  const size_t at =
      expert * mixture.experts.stride + mixture.group.segments[segment].first_row + row;
  double sum = 0;
  for (uint32_t c = 0; c < matrix.cols; ++c)
    sum += double{matrix.values[at * matrix.cols + c]} * x[c];
  return sum;
}

// y: [tokens * used][rows]; those of experts that the kernel has not are still `before`.
Status compare(const Mixture& mixture, const ExpertRows& part, Epilogue epilogue, uint32_t tokens,
               const std::vector<float>& x, const std::vector<float>& y, float before,
               double tolerance) {
  const std::vector<uint32_t> routes = routes_of(tokens);
  const std::vector<Segment>& segments = mixture.group.segments;
  const uint32_t rows = output_rows(segments, epilogue);
  const uint32_t cols = mixture.group.matrices[0].cols;
  for (uint32_t pair = 0; pair < tokens * kUsed; ++pair) {
    const uint32_t expert = routes[size_t{pair} * 2];
    const bool ours = expert - part.first < part.count;
    const float* input = x.data() + size_t{part.shared_input ? pair / kUsed : pair} * cols;
    uint32_t at = 0;
    for (size_t s = 0; s < (epilogue == Epilogue::kGeglu ? 1 : segments.size()); ++s) {
      for (uint32_t r = 0; r < segments[s].rows; ++r, ++at) {
        double want = before;
        if (ours) want = product(mixture, s, expert, r, input);
        if (ours && epilogue == Epilogue::kGeglu)
          want = trial_gelu(want) * product(mixture, 1, expert, r, input);
        const double got = y[size_t{pair} * rows + at];
        if (std::fabs(got - want) <= tolerance * std::max(1.0, std::fabs(want))) continue;
        return fail(ErrorCode::kInternal, cat("row ", pair, " of expert ", expert, ", at ", at,
                                              ": ", got, " instead of ", want));
      }
    }
  }
  return {};
}

constexpr float kBefore = 7.0f;

Task<Status> expect_matvec(gpu::Device& device, const Mixture& mixture, Epilogue epilogue,
                           const Variant& variant, ExpertRows part, double tolerance) {
  constexpr uint32_t kTokens = 3;
  const uint32_t cols = mixture.group.matrices[0].cols;
  MatvecSpec spec{
      .segments = mixture.group.segments,
      .cols = cols,
      .epilogue = epilogue,
      .tokens = TokenStrides{.y = output_rows(mixture.group.segments, epilogue), .input = cols},
      .experts = part};
  if (variant.light) spec.tiling = light_tiling(spec);
  const uint32_t inputs = part.shared_input ? kTokens : kTokens * kUsed;
  const std::vector<float> x = TrialRandom(1).floats(size_t{inputs} * cols);
  const std::vector<float> before(size_t{kTokens} * kUsed * spec.tokens->y, kBefore);
  CO_TRY(const gpu::Buffer y, trial_buffer(device, before));
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer routes, trial_buffer(device, routes_of(kTokens)));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(spec, variant),
                                 {mixture.group.buffer, y, x_buffer, routes},
                                 matvec_groups(spec, kTokens)));
  CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, y, before.size()));
  co_return compare(mixture, part, epilogue, kTokens, x, out, kBefore, tolerance);
}

// Every codec, each in the middle of a matrix.
std::vector<Segment> every_codec() {
  std::vector<Segment> segments;
  for (const Codec codec : kCodecs) segments.push_back({.codec = codec, .rows = 5, .first_row = 3});
  return segments;
}

KERNEL_TEST(matvec_experts_every_codec) {
  CO_TRY(const Mixture mixture, co_await make_mixture(device, every_codec(), 9, 512, true));
  co_return co_await expect_matvec(device, mixture, Epilogue::kStore, variants(device).front(),
                                   mixture.experts, 2e-5);
}

// Gate and up in one matrix, in several parts; a down projection of rows of each expert's own.
KERNEL_TEST(matvec_experts_in_parts) {
  const Variant variant = variants(device).front();
  CO_TRY(const Mixture mixture,
         co_await make_mixture(device,
                               {{.codec = Codec::kQ4_K, .rows = 37},
                                {.codec = Codec::kQ4_K, .rows = 37, .first_row = 37}},
                               74, 256, true));
  // As if the first expert lay elsewhere: the rest is what the kernel has.
  ExpertRows part = mixture.experts;
  part.count = 2;
  CO_TRY_VOID(co_await expect_matvec(device, mixture, Epilogue::kGeglu, variant, part, 2e-5));
  CO_TRY(const Mixture down,
         co_await make_mixture(device, {{.codec = Codec::kF16, .rows = 40}}, 40, 36, false));
  co_return co_await expect_matvec(device, down, Epilogue::kStore, variant, down.experts, 2e-5);
}

// As real GPUs run it.
KERNEL_TEST(matvec_experts_unrolled) {
  CO_TRY(const Mixture mixture,
         co_await make_mixture(
             device, {{.codec = Codec::kQ5_0, .rows = 33}, {.codec = Codec::kQ8_0, .rows = 33}}, 33,
             96, true));
  co_return co_await expect_matvec(device, mixture, Epilogue::kGeglu, {.dot = Dot::kInt16},
                                   mixture.experts, 1e-3);
}

Task<Status> expect_matmul(gpu::Device& device, const Mixture& mixture, Epilogue epilogue, Dot dot,
                           ExpertRows part, std::vector<uint32_t> counts, double tolerance) {
  const bool light = device.info().is_software != 0;
  const uint32_t cols = mixture.group.matrices[0].cols;
  const MatmulSpec spec{.segments = mixture.group.segments,
                        .cols = cols,
                        .epilogue = epilogue,
                        .experts = part,
                        .dot = dot,
                        .light = light};
  const Result<gpu::Kernel> made = co_await trial_kernel(device, matmul_source(spec));
  if (dot == Dot::kMatrix && !device.has(gpu::kFeatureMatrix)) {
    // run.mjs has its text checked all the same.
    KERNEL_EXPECT(!made && made.error().message.contains("subgroup_matrix"),
                  "a device without subgroup matrices compiled them");
    co_return Status{};
  }
  if (!made) co_return std::unexpected(made.error());
  const uint32_t y_row = output_rows(mixture.group.segments, epilogue);
  const uint32_t each = part.shared_input ? 1 : kUsed;
  for (const uint32_t tokens : counts) {
    const SortExpertsSpec sort{kExperts, kUsed, tile_tokens(spec.tiling, dot)};
    const std::vector<float> x = TrialRandom(tokens).floats(size_t{tokens} * each * cols);
    const std::vector<float> before(size_t{tokens} * kUsed * y_row, kBefore);
    const std::vector<Step> step = {{.tokens = tokens}};
    CO_TRY(const gpu::Buffer y, trial_buffer(device, before));
    CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer routes, trial_buffer(device, routes_of(tokens)));
    CO_TRY(const gpu::Buffer tiles, trial_zeros(device, uint64_t{expert_tiles(sort, tokens)} * 16));
    CO_TRY(const gpu::Buffer order, trial_zeros(device, uint64_t{tokens} * kUsed * 4));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    CO_TRY(const gpu::Buffer quantized,
           trial_zeros(device, quantized_bytes(dot, cols, uint64_t{tokens} * each)));
    CO_TRY_VOID(co_await trial_run(device, sort_experts_source(sort, {.light = light}),
                                   {routes, tiles, order, step_buffer}, Groups{}));
    if (dot != Dot::kF32) {
      const QuantizeSpec quantize{.cols = cols, .dot = dot, .light = light, .each = each};
      CO_TRY_VOID(co_await trial_run(device, quantize_source(quantize),
                                     {x_buffer, quantized, step_buffer},
                                     quantize_groups(quantize, tokens)));
    }
    const std::vector<gpu::Range> ranges = {
        mixture.group.buffer, y, dot == Dot::kF32 ? x_buffer : quantized, tiles, order,
        step_buffer};
    CO_TRY_VOID(trial_dispatch(device, *made, ranges, matmul_groups(spec, tokens)));
    CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, y, before.size()));
    CO_TRY_VOID(compare(mixture, part, epilogue, tokens, x, out, kBefore, tolerance));
  }
  co_return Status{};
}

// 70 rows of expert 2 are several tiles of any form.
KERNEL_TEST(matmul_experts_every_codec) {
  CO_TRY(const Mixture mixture, co_await make_mixture(device, every_codec(), 9, 256, true));
  co_return co_await expect_matmul(device, mixture, Epilogue::kStore, Dot::kF32, mixture.experts,
                                   {1, 70}, 2e-5);
}

KERNEL_TEST(matmul_experts_integer) {
  CO_TRY(const Mixture mixture,
         co_await make_mixture(device,
                               {{.codec = Codec::kQ4_K, .rows = 37},
                                {.codec = Codec::kQ4_K, .rows = 37, .first_row = 37}},
                               74, 256, true));
  ExpertRows part = mixture.experts;
  part.count = 2;
  CO_TRY_VOID(
      co_await expect_matmul(device, mixture, Epilogue::kGeglu, Dot::kInt16, part, {70}, 1e-3));
  CO_TRY(const Mixture down,
         co_await make_mixture(device, {{.codec = Codec::kQ5_0, .rows = 67}}, 67, 96, false));
  co_return co_await expect_matmul(device, down, Epilogue::kStore, Dot::kInt16, down.experts,
                                   {3, 70}, 1e-3);
}

KERNEL_TEST(matmul_experts_matrix) {
  CO_TRY(const Mixture mixture,
         co_await make_mixture(device,
                               {{.codec = Codec::kQ4_K, .rows = 37},
                                {.codec = Codec::kQ4_K, .rows = 37, .first_row = 37}},
                               74, 256, true));
  CO_TRY_VOID(co_await expect_matmul(device, mixture, Epilogue::kGeglu, Dot::kMatrix,
                                     mixture.experts, {1, 70}, 3e-2));
  CO_TRY(const Mixture down,
         co_await make_mixture(device, {{.codec = Codec::kQ8_0, .rows = 67}}, 67, 96, false));
  co_return co_await expect_matmul(device, down, Epilogue::kStore, Dot::kMatrix, down.experts,
                                   {3, 70}, 3e-2);
}

// --- Their outputs ---

Task<Status> expect_mix(gpu::Device& device, MixExpertsSpec spec, uint32_t tokens,
                        const Variant& variant) {
  TrialRandom random(spec.cols);
  const std::vector<float> out = random.floats(size_t{tokens} * spec.used * spec.cols, 2.0f);
  const std::vector<float> norms = random.floats(size_t{2} * spec.cols, 0.5f, 1.0f);
  const std::vector<float> delta = random.floats(size_t{tokens} * spec.delta_stride, 3.0f);
  std::vector<uint32_t> chosen;
  for (uint32_t i = 0; i < tokens * spec.used; ++i)
    chosen.insert(chosen.end(), {i, std::bit_cast<uint32_t>(random.next())});
  const std::vector<Step> step = {{.tokens = tokens}};
  CO_TRY(const gpu::Buffer out_buffer, trial_buffer(device, out));
  CO_TRY(const gpu::Buffer chosen_buffer, trial_buffer(device, chosen));
  CO_TRY(const gpu::Buffer norms_buffer, trial_buffer(device, norms));
  CO_TRY(const gpu::Buffer delta_buffer, trial_buffer(device, delta));
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY_VOID(co_await trial_run(
      device, mix_experts_source(spec, variant),
      {out_buffer, chosen_buffer, norms_buffer, delta_buffer, step_buffer}, fold_groups(tokens)));
  CO_TRY(const std::vector<float> got,
         co_await trial_read<float>(device, delta_buffer, delta.size()));
  for (uint32_t t = 0; t < tokens; ++t) {
    std::vector<double> z(spec.cols);
    double dense = 0;
    double mixed = 0;
    for (uint32_t c = 0; c < spec.cols; ++c) {
      for (uint32_t i = 0; i < spec.used; ++i) {
        const uint32_t pair = t * spec.used + i;
        z[c] += double{std::bit_cast<float>(chosen[size_t{pair} * 2 + 1])} *
                out[size_t{pair} * spec.cols + c];
      }
      const double d = delta[size_t{t} * spec.delta_stride + c];
      mixed += z[c] * z[c];
      dense += d * d;
    }
    for (uint32_t c = 0; c < spec.delta_stride; ++c) {
      const size_t at = size_t{t} * spec.delta_stride + c;
      double want = delta[at];
      if (c < spec.cols) {
        want = delta[at] / std::sqrt(dense / spec.cols + spec.eps) * norms[c] +
               z[c] / std::sqrt(mixed / spec.cols + spec.eps) * norms[spec.cols + c];
      }
      KERNEL_EXPECT(std::fabs(got[at] - want) < 2e-5, "token ", t, ", column ", c, ": ", got[at],
                    " instead of ", want);
    }
  }
  co_return Status{};
}

KERNEL_TEST(mix_experts) {
  for (const Variant& variant : variants(device))
    CO_TRY_VOID(co_await expect_mix(device, {300, 3, 304}, 3, variant));
  CO_TRY_VOID(co_await expect_mix(device, {5, 8, 5}, 1, variants(device).front()));
  co_return co_await expect_mix(device, {40, 2, 40}, 2, unrolled_variants(device).back());
}

}  // namespace
}  // namespace lapidary::kernels
