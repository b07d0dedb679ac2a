// The vision tower's kernels, and the clipped matmul, against plain double loops.
#include <algorithm>
#include <cmath>

#include "engine/kernels/matmul.h"
#include "engine/kernels/rope.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial_attention.h"
#include "engine/kernels/vision.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

constexpr double kTolerance = 2e-5;

using Doubles = std::vector<double>;

double inverse_rms(std::span<const double> x, double eps) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return 1 / std::sqrt(sum / static_cast<double>(x.size()) + eps);
}

Task<Status> check_patches(gpu::Device& device, bool centred) {
  constexpr uint32_t kSide = 16;
  const Grid grid{.columns = 3, .rows = 2};
  const uint32_t width = grid.columns * kSide;
  std::vector<uint32_t> words(3 * width * grid.rows * kSide / 4);
  TrialRandom random(1);
  for (uint32_t& word : words) word = random.bits();
  Doubles wanted;
  for (uint32_t t = 0; t < 6; ++t) {
    for (uint32_t c = 0; c < 3; ++c) {
      for (uint32_t i = 0; i < kSide * kSide; ++i) {
        const uint32_t y = t / 3 * kSide + i / kSide;
        const uint32_t x = t % 3 * kSide + i % kSide;
        const uint32_t at = 3 * (y * width + x) + c;
        const double value = (words[at / 4] >> (at % 4 * 8) & 255) / 255.0;
        wanted.push_back(centred ? 2 * value - 1 : value);
      }
    }
  }
  CO_TRY(const gpu::Buffer image, trial_buffer(device, words));
  CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
  CO_TRY(const gpu::Buffer grids, trial_buffer(device, std::vector<Grid>{grid}));
  CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = 6}}));
  CO_TRY_VOID(co_await trial_run(device, image_patches_source(kSide, centred),
                                 {image, out, grids, step}, image_patches_groups(kSide, 6)));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
  const double d = largest_difference(got, wanted);
  KERNEL_EXPECT(d < 1e-6, "differs by ", d);
  co_return Status{};
}

KERNEL_TEST(image_patches) {
  CO_TRY_VOID(co_await check_patches(device, true));
  co_return co_await check_patches(device, false);
}

KERNEL_TEST(add_positions) {
  constexpr uint32_t kCols = 300;
  constexpr uint32_t kRows = 5;
  const Grid grid{.columns = 4, .rows = 3};
  TrialRandom random(2);
  const std::vector<float> h = random.floats(12 * kCols);
  const std::vector<float> table = random.floats(2 * kRows * kCols);
  Doubles wanted;
  for (uint32_t t = 0; t < 12; ++t) {
    for (uint32_t c = 0; c < kCols; ++c)
      wanted.push_back(double{h[t * kCols + c]} + table[t % 4 * kCols + c] +
                       table[(kRows + t / 4) * kCols + c]);
  }
  CO_TRY(const gpu::Buffer h_buffer, trial_buffer(device, h));
  CO_TRY(const gpu::Buffer tables, trial_buffer(device, table));
  CO_TRY(const gpu::Buffer out, trial_zeros(device, h.size() * 4));
  CO_TRY(const gpu::Buffer grids, trial_buffer(device, std::vector<Grid>{grid}));
  CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = 12}}));
  CO_TRY_VOID(co_await trial_run(device, add_positions_source(kCols, kRows),
                                 {h_buffer, tables, out, grids, step},
                                 add_positions_groups(kCols, 12)));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
  const double d = largest_difference(got, wanted);
  KERNEL_EXPECT(d < kTolerance, "differs by ", d);
  co_return Status{};
}

// Head vectors [patch][head][head_dim], normed and turned: columns turn the first half, rows the
// second.
Doubles turned(std::span<const float> x, const VisionAttentionSpec& spec, Grid grid,
               std::span<const float> norm) {
  const uint32_t dim = spec.head_dim;
  const uint32_t pairs = dim / 4;
  Doubles out(x.begin(), x.end());
  for (size_t head = 0; head < out.size() / dim; ++head) {
    const std::span row = std::span(out).subspan(head * dim, dim);
    const double scale = inverse_rms(row, spec.eps);
    for (uint32_t d = 0; d < dim; ++d) row[d] *= scale * (norm.empty() ? 1 : norm[d]);
    if (norm.empty()) continue;
    const auto patch = static_cast<uint32_t>(head / spec.heads);
    for (uint32_t i = 0; i < 2 * pairs; ++i) {
      const uint32_t position = i < pairs ? patch % grid.columns : patch / grid.columns;
      const double angle = position * std::pow(100.0, -2.0 * (i % pairs) / (dim / 2.0));
      double& a = row[i / pairs * (dim / 2) + i % pairs];
      double& b = row[i / pairs * (dim / 2) + i % pairs + pairs];
      const double x0 = a;
      a = x0 * std::cos(angle) - b * std::sin(angle);
      b = b * std::cos(angle) + x0 * std::sin(angle);
    }
  }
  return out;
}

Doubles attended(std::span<const double> q, std::span<const double> k, std::span<const double> v,
                 const VisionAttentionSpec& spec, uint32_t patches) {
  const uint32_t dim = spec.head_dim;
  const auto at = [&](uint32_t patch, uint32_t head) { return (patch * spec.heads + head) * dim; };
  Doubles out(q.size());
  for (uint32_t head = 0; head < spec.heads; ++head) {
    for (uint32_t i = 0; i < patches; ++i) {
      Doubles p(patches);
      for (uint32_t j = 0; j < patches; ++j) {
        for (uint32_t d = 0; d < dim; ++d) p[j] += q[at(i, head) + d] * k[at(j, head) + d];
      }
      const double top = std::ranges::max(p);
      double total = 0;
      for (double& value : p) total += value = std::exp(value - top);
      for (uint32_t j = 0; j < patches; ++j) {
        for (uint32_t d = 0; d < dim; ++d)
          out[at(i, head) + d] += p[j] / total * v[at(j, head) + d];
      }
    }
  }
  return out;
}

Task<Status> check_attention(gpu::Device& device, VisionAttentionSpec spec, Grid grid,
                             const std::vector<Variant>& forms) {
  const uint32_t patches = grid.columns * grid.rows;
  const size_t count = size_t{patches} * spec.heads * spec.head_dim;
  TrialRandom random(spec.head_dim);
  const std::vector<float> q = random.floats(count, 2);
  const std::vector<float> k = random.floats(count, 2);
  const std::vector<float> v = random.floats(count, 2);
  const std::vector<float> norms = random.floats(size_t{2} * spec.head_dim, 0.5f, 0.7f);
  const Doubles want_q = turned(q, spec, grid, std::span(norms).first(spec.head_dim));
  const Doubles want_k = turned(k, spec, grid, std::span(norms).last(spec.head_dim));
  const Doubles want_v = turned(v, spec, grid, {});
  const Doubles want = attended(want_q, want_k, want_v, spec, patches);
  const std::vector<float> table =
      rope_table(spec.head_dim / 2, spec.head_dim / 4, 100, {}, std::max(grid.columns, grid.rows));
  for (const Variant& variant : forms) {
    CO_TRY(const gpu::Buffer q_in, trial_buffer(device, q));
    CO_TRY(const gpu::Buffer k_in, trial_buffer(device, k));
    CO_TRY(const gpu::Buffer v_in, trial_buffer(device, v));
    CO_TRY(const gpu::Buffer norm, trial_buffer(device, norms));
    CO_TRY(const gpu::Buffer rope, trial_buffer(device, table));
    CO_TRY(const gpu::Buffer q_out, trial_zeros(device, count * 4));
    CO_TRY(const gpu::Buffer k_out, trial_zeros(device, count * 4));
    CO_TRY(const gpu::Buffer v_out, trial_zeros(device, count * 4));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, count * 4));
    CO_TRY(const gpu::Buffer grids, trial_buffer(device, std::vector<Grid>{grid}));
    CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = patches}}));
    CO_TRY_VOID(co_await trial_run(device, vision_heads_source(spec, variant),
                                   {q_in, k_in, v_in, norm, rope, q_out, k_out, v_out, grids, step},
                                   vision_heads_groups(spec, patches)));
    CO_TRY_VOID(co_await trial_run(device, vision_attention_source(spec, variant),
                                   {q_out, k_out, v_out, out, step},
                                   vision_attention_groups(spec, patches)));
    for (const auto& [name, buffer, wanted] :
         {std::tuple{"q", &q_out, &want_q}, std::tuple{"k", &k_out, &want_k},
          std::tuple{"v", &v_out, &want_v}, std::tuple{"attention", &out, &want}}) {
      CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, *buffer, count));
      const double d = largest_difference(got, *wanted);
      KERNEL_EXPECT(d < 5 * kTolerance, name, " differs by ", d, ", subgroups ", variant.subgroups);
    }
  }
  co_return Status{};
}

// Keys that are no whole tiles, heads of the small and the large towers, and columns past the low
// table of turns.
KERNEL_TEST(vision_attention) {
  CO_TRY_VOID(co_await check_attention(device, {.heads = 3, .head_dim = 8},
                                       {.columns = 7, .rows = 5}, variants(device)));
  CO_TRY_VOID(co_await check_attention(device, {.heads = 2, .head_dim = 72},
                                       {.columns = 3, .rows = 6}, variants(device)));
  co_return co_await check_attention(device, {.heads = 1, .head_dim = 64},
                                     {.columns = 300, .rows = 1}, {variants(device).back()});
}
KERNEL_TEST(vision_attention_unrolled) {
  co_return co_await check_attention(device, {.heads = 2, .head_dim = 16},
                                     {.columns = 3, .rows = 6}, unrolled_variants(device));
}

Task<Status> check_pool(gpu::Device& device, VisionPoolSpec spec, Grid grid,
                        const std::vector<Variant>& forms) {
  const uint32_t cols = spec.cols;
  const uint32_t across = grid.columns / spec.side;
  const uint32_t tokens = across * (grid.rows / spec.side);
  TrialRandom random(cols);
  const std::vector<float> x = random.floats(size_t{cols} * grid.columns * grid.rows, 2);
  const std::vector<float> standard = random.floats(size_t{2} * cols, 0.5f, 1);
  Doubles wanted;
  for (uint32_t t = 0; t < tokens; ++t) {
    Doubles row(cols);
    for (uint32_t c = 0; c < cols; ++c) {
      for (uint32_t i = 0; i < spec.side * spec.side; ++i) {
        const uint32_t patch = (t / across * spec.side + i / spec.side) * grid.columns +
                               t % across * spec.side + i % spec.side;
        row[c] += x[size_t{patch} * cols + c] / (spec.side * spec.side) * std::sqrt(cols);
      }
      if (spec.standardises) row[c] = (row[c] - standard[c]) * standard[cols + c];
    }
    const double scale = inverse_rms(row, spec.eps);
    for (const double value : row) wanted.push_back(value * scale);
  }
  for (const Variant& variant : forms) {
    CO_TRY(const gpu::Buffer in, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer standards, trial_buffer(device, standard));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
    CO_TRY(const gpu::Buffer grids, trial_buffer(device, std::vector<Grid>{grid}));
    CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = tokens}}));
    std::vector<gpu::Range> ranges{in};
    if (spec.standardises) ranges.emplace_back(standards);
    ranges.insert(ranges.end(), {out, grids, step});
    CO_TRY_VOID(co_await trial_run(device, vision_pool_source(spec, variant), std::move(ranges),
                                   fold_groups(tokens)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
    const double d = largest_difference(got, wanted);
    KERNEL_EXPECT(d < kTolerance, "differs by ", d, ", subgroups ", variant.subgroups);
  }
  co_return Status{};
}

KERNEL_TEST(vision_pool) {
  CO_TRY_VOID(
      co_await check_pool(device, {.cols = 300}, {.columns = 9, .rows = 6}, variants(device)));
  co_return co_await check_pool(device, {.cols = 40, .standardises = true},
                                {.columns = 3, .rows = 12}, variants(device));
}
KERNEL_TEST(vision_pool_unrolled) {
  co_return co_await check_pool(device, {.cols = 70, .standardises = true},
                                {.columns = 6, .rows = 3}, unrolled_variants(device));
}

Task<Status> check_layer_norm(gpu::Device& device, LayerNormSpec spec,
                              const std::vector<Variant>& forms) {
  constexpr uint32_t kTokens = 3;
  const uint32_t cols = spec.cols;
  TrialRandom random(cols);
  const std::vector<float> x = random.floats(size_t{kTokens} * cols, 3);
  const std::vector<float> vectors = random.floats(size_t{3} * cols, 2);
  Doubles wanted;
  for (uint32_t t = 0; t < kTokens; ++t) {
    Doubles row;
    double mean = 0;
    for (uint32_t c = 0; c < cols; ++c) {
      row.push_back(x[t * cols + c] + (spec.adds_before ? vectors[2 * cols + c] : 0.0));
      mean += row.back() / cols;
    }
    double variance = 0;
    for (const double value : row) variance += (value - mean) * (value - mean) / cols;
    for (uint32_t c = 0; c < cols; ++c) {
      row[c] = (row[c] - mean) / std::sqrt(variance + spec.eps) * vectors[c] + vectors[cols + c];
    }
    const double scale = spec.rms_after ? inverse_rms(row, spec.rms_eps) : 1;
    for (const double value : row) wanted.push_back(value * scale);
  }
  for (const Variant& variant : forms) {
    CO_TRY(const gpu::Buffer in, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer weights, trial_buffer(device, vectors));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
    CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = kTokens}}));
    CO_TRY_VOID(co_await trial_run(device, layer_norm_source(spec, variant),
                                   {in, weights, out, step}, fold_groups(kTokens)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
    const double d = largest_difference(got, wanted);
    KERNEL_EXPECT(d < kTolerance, "differs by ", d, ", subgroups ", variant.subgroups);
  }
  co_return Status{};
}

KERNEL_TEST(layer_norm) {
  CO_TRY_VOID(co_await check_layer_norm(device, {.cols = 700}, variants(device)));
  CO_TRY_VOID(
      co_await check_layer_norm(device, {.cols = 40, .adds_before = true}, variants(device)));
  co_return co_await check_layer_norm(device, {.cols = 300, .rms_after = true},
                                      unrolled_variants(device));
}

// Rows and columns that are no whole tiles.
KERNEL_TEST(clipped_matmul) {
  constexpr uint32_t kRows = 70, kCols = 40, kPadded = 64, kTokens = 35;
  const std::vector<float> clip = {-0.4f, 0.5f, -0.6f, 0.7f};
  TrialRandom random(4);
  const std::vector<float> w = random.floats(kRows * kCols);
  const std::vector<float> x = random.floats(kTokens * kCols);
  Doubles wanted;
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t r = 0; r < kRows; ++r) {
      double sum = 0;
      for (uint32_t c = 0; c < kCols; ++c)
        sum += double{w[r * kCols + c]} * std::clamp(x[t * kCols + c], clip[0], clip[1]);
      wanted.push_back(std::clamp<double>(sum, clip[2], clip[3]));
    }
  }
  KERNEL_EXPECT(std::ranges::count(wanted, double{clip[3]}) > 100, "the upper bound has no part");
  std::vector<float> padded(packed_bytes(Codec::kF32, kRows, kCols) / sizeof(float));
  for (uint32_t r = 0; r < kRows; ++r)
    std::copy_n(w.begin() + r * kCols, kCols, padded.begin() + r * kPadded);
  std::vector<Variant> forms = variants(device);
  for (const bool light : {forms.front().light, false}) {
    const MatmulSpec spec{
        .segments = {{Codec::kF32, kRows, 0}}, .cols = kCols, .clip = true, .light = light};
    CO_TRY(const gpu::Buffer weights, trial_buffer(device, padded));
    CO_TRY(const gpu::Buffer in, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer range, trial_buffer(device, clip));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
    CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = kTokens}}));
    CO_TRY_VOID(co_await trial_run(device, matmul_source(spec), {weights, out, in, range, step},
                                   matmul_groups(spec, kTokens)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
    const double d = largest_difference(got, wanted);
    KERNEL_EXPECT(d < kTolerance, "differs by ", d, ", light ", light);
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
