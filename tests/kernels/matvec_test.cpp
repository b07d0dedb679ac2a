// Matvec: every codec, prologue and epilogue against plain double loops.
#include <algorithm>
#include <cmath>

#include "engine/kernels/attention.h"
#include "engine/kernels/matvec.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/groups.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

// Outputs are around 1; f32 sums of 20,000 products stay well within. Activations in 16 bits are
// off by up to 2^-15 of the largest of 16, those in 8 bits by 2^-8; errors of many average out.
double tolerance_of(const Variant& variant) {
  return variant.dot == Dot::kF32 ? 2e-5 : variant.dot == Dot::kInt16 ? 1e-4 : 2e-2;
}

std::vector<double> rms(const std::vector<double>& v, double eps) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  std::vector<double> out(v);
  for (double& x : out) x /= std::sqrt(sum / static_cast<double>(v.size()) + eps);
  return out;
}

std::vector<double> doubles(const std::vector<float>& v) { return {v.begin(), v.end()}; }
std::vector<float> floats(const std::vector<double>& v) { return {v.begin(), v.end()}; }

Status close(const std::vector<float>& got, const std::vector<double>& want, const Variant& variant,
             std::string_view what, double scale = 1) {
  for (size_t i = 0; i < want.size(); ++i) {
    const double difference = std::fabs(got[i] - want[i]);
    if (!(difference <= tolerance_of(variant) * scale * std::max(1.0, std::fabs(want[i])))) {
      return fail(ErrorCode::kInternal,
                  cat(what, " at ", i, ": ", got[i], " instead of ", want[i]));
    }
  }
  return {};
}

std::string name_of(const MatvecSpec& spec, const Variant& variant) {
  std::string name = cat(variant.subgroups ? "subgroups " : "plain ", dot_name(variant.dot));
  for (const Segment& s : spec.segments) name += cat(" ", codec_prefix(s.codec), " ", s.rows);
  return cat(name, " x ", spec.cols);
}

// Runs spec over y of `rows` floats (before which row_offset others stay as they are) with the
// prologue's and epilogue's ranges.
Task<Result<std::vector<float>>> run(gpu::Device& device, const MatvecSpec& spec,
                                     const Variant& variant, const TrialGroup& group, uint32_t rows,
                                     std::vector<gpu::Range> more) {
  const std::vector<float> before(spec.row_offset + rows + 3, 7.0f);
  CO_TRY(const gpu::Buffer y, trial_buffer(device, before));
  std::vector<gpu::Range> ranges = {group.buffer, y};
  ranges.insert(ranges.end(), more.begin(), more.end());
  CO_TRY_VOID(
      co_await trial_run(device, matvec_source(spec, variant), ranges, matvec_groups(spec)));
  CO_TRY(std::vector<float> out, co_await trial_read<float>(device, y, before.size()));
  for (size_t i = 0; i < out.size(); ++i) {
    if ((i < spec.row_offset || i >= spec.row_offset + rows) && out[i] != 7.0f)
      co_return fail(ErrorCode::kInternal, cat(name_of(spec, variant), " wrote outside, at ", i));
  }
  out.erase(out.begin(), out.begin() + spec.row_offset);
  co_return out;
}

Task<Status> expect_plain(gpu::Device& device, std::vector<Segment> shapes, uint32_t cols,
                          std::optional<MatvecTiling> tiling = std::nullopt,
                          bool with_subgroups = true) {
  // A float codec in the group makes all of it f32.
  const bool integer =
      std::ranges::all_of(shapes, [](const Segment& s) { return has_integer_quants(s.codec); });
  CO_TRY(const TrialGroup group, co_await make_group(device, std::move(shapes), cols));
  const std::vector<float> x = TrialRandom(5).floats(cols);
  const std::vector<double> want = trial_product(group, x.data());
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  for (const Variant& variant : integer ? dot_variants(device) : variants(device)) {
    if (variant.subgroups && !with_subgroups) continue;
    MatvecSpec spec{.segments = group.segments, .cols = cols, .row_offset = 5, .tiling = tiling};
    CO_TRY(const std::vector<float> y,
           co_await run(device, spec, variant, group, total_rows(spec.segments), {x_buffer}));
    CO_TRY_VOID(close(y, want, variant, name_of(spec, variant)));
  }
  co_return Status{};
}

// Rows that fill no workgroup, and columns that no number of lanes divides.
Task<Status> expect_codec(gpu::Device& device, Codec codec) {
  const uint32_t block = gguf::tensor_type_info(tensor_type(codec)).block_elements;
  co_return co_await expect_plain(device, {{codec, 37}}, block == 1 ? 165 : 5 * block);
}

KERNEL_TEST(matvec_f32) { co_return co_await expect_codec(device, Codec::kF32); }
KERNEL_TEST(matvec_f16) { co_return co_await expect_codec(device, Codec::kF16); }
KERNEL_TEST(matvec_bf16) { co_return co_await expect_codec(device, Codec::kBF16); }
KERNEL_TEST(matvec_q8_0) { co_return co_await expect_codec(device, Codec::kQ8_0); }
KERNEL_TEST(matvec_q4_0) { co_return co_await expect_codec(device, Codec::kQ4_0); }
KERNEL_TEST(matvec_q5_0) { co_return co_await expect_codec(device, Codec::kQ5_0); }
KERNEL_TEST(matvec_q4_k) { co_return co_await expect_codec(device, Codec::kQ4_K); }
KERNEL_TEST(matvec_q5_k) { co_return co_await expect_codec(device, Codec::kQ5_K); }
KERNEL_TEST(matvec_q6_k) { co_return co_await expect_codec(device, Codec::kQ6_K); }

// In one kernel, which software GPUs compile sooner than seven; in f32 and in bytes.
KERNEL_TEST(matvec_more_codecs) {
  co_return co_await expect_plain(device,
                                  {{Codec::kQ4_1, 17},
                                   {Codec::kQ5_1, 3},
                                   {Codec::kQ2_K, 37},
                                   {Codec::kQ3_K, 18},
                                   {Codec::kIQ4_NL, 5},
                                   {Codec::kIQ4_XS, 33},
                                   {Codec::kMXFP4, 7}},
                                  5 * 256, std::nullopt, false);
}

KERNEL_TEST(matvec_segments_of_different_codecs) {
  CO_TRY_VOID(co_await expect_plain(
      device, {{Codec::kQ4_K, 70}, {Codec::kQ4_K, 3}, {Codec::kQ6_K, 19}}, 512));
  co_return co_await expect_plain(device, {{Codec::kF16, 2}, {Codec::kF32, 65}}, 34);
}

KERNEL_TEST(matvec_one_row_of_one_block) {
  CO_TRY_VOID(co_await expect_plain(device, {{Codec::kQ6_K, 1}}, 256));
  co_return co_await expect_plain(device, {{Codec::kF32, 1}}, 1);
}

KERNEL_TEST(matvec_rows_of_several_tiles) {
  CO_TRY_VOID(co_await expect_plain(device, {{Codec::kQ8_0, 9}}, 5376));
  co_return co_await expect_plain(device, {{Codec::kQ4_K, 3}}, 12288);
}

KERNEL_TEST(matvec_more_rows_than_one_dimension_of_groups) {
  co_return co_await expect_plain(device, {{Codec::kQ8_0, 70001}}, 32, MatvecTiling{32, 32, 1});
}

KERNEL_TEST(matvec_every_tiling) {
  for (const MatvecTiling tiling :
       {MatvecTiling{256, 256, 1}, {128, 1, 2}, {64, 64, 8}, {32, 4, 3}})
    CO_TRY_VOID(co_await expect_plain(device, {{Codec::kQ4_0, 50}}, 160, tiling));
  co_return Status{};
}

struct NormCase {
  uint32_t cols;
  bool has_post, has_pre;
};

KERNEL_TEST(matvec_residual_norm) {
  for (const NormCase& c : {NormCase{64, true, true}, NormCase{96, false, true},
                            NormCase{36, true, false}, NormCase{5376, true, true}}) {
    const bool integer = c.cols == 96;
    const Codec codec = integer ? Codec::kQ4_0 : Codec::kF16;
    CO_TRY(const TrialGroup group, co_await make_group(device, {{codec, 80}}, c.cols));
    TrialRandom random(c.cols);
    const std::vector<float> x_old = random.floats(c.cols, 3.0f);
    const std::vector<float> delta = random.floats(c.cols, 2.0f);
    std::vector<float> site = random.floats(2 * c.cols, 0.5f, 1.0f);
    site.resize(2 * c.cols + 4, 0.75f);

    std::vector<double> x_new = doubles(delta);
    if (c.has_post) x_new = rms(x_new, 1e-6);
    for (uint32_t i = 0; i < c.cols; ++i)
      x_new[i] = (x_old[i] + x_new[i] * (c.has_post ? site[i] : 1.0)) * 0.75;
    std::vector<double> h = c.has_pre ? rms(x_new, 1e-6) : x_new;
    if (c.has_pre) {
      for (uint32_t i = 0; i < c.cols; ++i) h[i] *= site[c.cols + i];
    }
    const std::vector<double> want = trial_product(group, floats(h).data());

    CO_TRY(const gpu::Buffer old_buffer, trial_buffer(device, x_old));
    CO_TRY(const gpu::Buffer delta_buffer, trial_buffer(device, delta));
    CO_TRY(const gpu::Buffer site_buffer, trial_buffer(device, site));
    for (const Variant& variant : integer ? dot_variants(device) : variants(device)) {
      CO_TRY(const gpu::Buffer new_buffer, trial_zeros(device, c.cols * 4));
      const MatvecSpec spec{.segments = group.segments,
                            .cols = c.cols,
                            .prologue = Prologue::kResidualNorm,
                            .has_post = c.has_post,
                            .has_pre = c.has_pre};
      CO_TRY(const std::vector<float> y,
             co_await run(device, spec, variant, group, 80,
                          {old_buffer, delta_buffer, site_buffer, new_buffer}));
      CO_TRY_VOID(close(y, want, variant, name_of(spec, variant)));
      CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, new_buffer, c.cols));
      CO_TRY_VOID(close(out, x_new, {}, "x_new"));
    }
  }
  co_return Status{};
}

KERNEL_TEST(matvec_norm_softcap) {
  constexpr uint32_t kCols = 256;
  CO_TRY(const TrialGroup group, co_await make_group(device, {{Codec::kQ6_K, 130}}, kCols));
  const std::vector<float> x = TrialRandom(8).floats(kCols, 50.0f);
  std::vector<float> site = TrialRandom(9).floats(2 * kCols, 20.0f);
  site.resize(2 * kCols + 4);
  std::vector<double> h = rms(doubles(x), 1e-6);
  for (uint32_t i = 0; i < kCols; ++i) h[i] *= site[kCols + i];
  std::vector<double> want = trial_product(group, floats(h).data());
  for (double& v : want) v = 5 * std::tanh(v / 5);
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer site_buffer, trial_buffer(device, site));
  for (const Variant& variant : all_variants(device)) {
    const MatvecSpec spec{.segments = group.segments,
                          .cols = kCols,
                          .prologue = Prologue::kNorm,
                          .epilogue = Epilogue::kSoftcap,
                          .cap = 5.0f};
    CO_TRY(const std::vector<float> y,
           co_await run(device, spec, variant, group, 130, {x_buffer, site_buffer}));
    CO_TRY_VOID(close(y, want, variant, name_of(spec, variant)));
  }
  co_return Status{};
}

KERNEL_TEST(matvec_geglu_and_gelu_mul) {
  constexpr uint32_t kCols = 512;
  constexpr uint32_t kRows = 45;
  CO_TRY(const TrialGroup group,
         co_await make_group(device, {{Codec::kQ4_K, kRows}, {Codec::kQ6_K, kRows}}, kCols));
  // Large enough that tanh saturates.
  const std::vector<float> x = TrialRandom(8).floats(kCols, 20.0f);
  const std::vector<float> mul = TrialRandom(10).floats(2 * kRows);
  const std::vector<double> product = trial_product(group, x.data());
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer mul_buffer, trial_buffer(device, mul));
  std::vector<double> geglu(kRows);
  std::vector<double> scaled(2 * kRows);
  for (uint32_t i = 0; i < kRows; ++i) geglu[i] = trial_gelu(product[i]) * product[kRows + i];
  for (uint32_t i = 0; i < 2 * kRows; ++i) scaled[i] = trial_gelu(product[i]) * mul[i];
  for (const Variant& variant : dot_variants(device)) {
    MatvecSpec spec{.segments = group.segments, .cols = kCols, .epilogue = Epilogue::kGeglu};
    CO_TRY(std::vector<float> y, co_await run(device, spec, variant, group, kRows, {x_buffer}));
    // Products of two numbers of about 10, from activations of up to 20.
    const double scale = variant.dot == Dot::kF32 ? 1 : 200;
    CO_TRY_VOID(close(y, geglu, variant, cat("geglu ", name_of(spec, variant)), scale));
    spec.epilogue = Epilogue::kGeluMul;
    spec.row_offset = 4;
    CO_TRY(y, co_await run(device, spec, variant, group, 2 * kRows, {x_buffer, mul_buffer}));
    CO_TRY_VOID(close(y, scaled, variant, cat("gelu mul ", name_of(spec, variant)), scale));
  }
  co_return Status{};
}

// A feed-forward network in two products, the vector between them in bytes.
Task<Status> expect_handed_over(gpu::Device& device, const Variant& variant,
                                std::optional<MatvecTiling> tiling) {
  constexpr uint32_t kCols = 256;
  constexpr uint32_t kRows = 96;  // the last of the workgroups is not full
  CO_TRY(const TrialGroup group,
         co_await make_group(device, {{Codec::kQ4_K, kRows}, {Codec::kQ6_K, kRows}}, kCols));
  CO_TRY(const TrialGroup last, co_await make_group(device, {{Codec::kQ8_0, 37}}, kRows));
  std::vector<float> x = TrialRandom(8).floats(kCols, 2.0f);
  const std::vector<double> product = trial_product(group, x.data());
  std::vector<float> middle(kRows);
  for (uint32_t i = 0; i < kRows; ++i)
    middle[i] = static_cast<float>(trial_gelu(product[i]) * product[kRows + i]);
  const std::vector<double> want = trial_product(last, middle.data());
  MatvecSpec first{
      .segments = group.segments, .cols = kCols, .epilogue = Epilogue::kGeglu, .tiling = tiling};
  if (!tiling) first.tiling = light_tiling(first);
  MatvecSpec second{.segments = last.segments, .cols = kRows};
  if (variant.light) second.tiling = light_tiling(second);
  KERNEL_EXPECT(can_hand_over(first, second, variant), "not for ", name_of(first, variant));
  first.quantizes = true;
  second.prologue = Prologue::kQuantized;
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer handed, trial_zeros(device, handed_over_bytes(kRows)));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(first, variant),
                                 {group.buffer, handed, x_buffer}, matvec_groups(first)));
  CO_TRY(const std::vector<float> y, co_await run(device, second, variant, last, 37, {handed}));
  // Both products are off, and GeGLU multiplies two of the first.
  co_return close(y, want, variant, cat("handed over: ", name_of(second, variant)), 4);
}

KERNEL_TEST(matvec_handed_over) {
  for (Variant variant : dot_variants(device)) {
    if (variant.dot == Dot::kF32) continue;
    std::optional<MatvecTiling> tiling;
    if (!variant.light) tiling = MatvecTiling{128, 8, 2};
    CO_TRY_VOID(co_await expect_handed_over(device, variant, tiling));
  }
  // As real GPUs run it.
  co_return co_await expect_handed_over(device, {.dot = Dot::kInt16}, MatvecTiling{64, 4, 1});
}

struct MergeCase {
  uint32_t heads, head_dim, window;
  AttentionTiling attention;
  uint32_t position;
};

KERNEL_TEST(matvec_merge_of_attention_splits) {
  for (const MergeCase& c :
       {MergeCase{4, 16, 0, {}, 0}, MergeCase{3, 10, 512, {.keys = 80, .splits = 9}, 5000},
        MergeCase{32, 64, 0, {.splits = 64}, 100000}}) {
    const uint32_t cols = c.heads * c.head_dim;
    const uint32_t splits = attention_splits(c.position, c.window, c.attention);
    CO_TRY(const TrialGroup group, co_await make_group(device, {{Codec::kF16, 11}}, cols));
    TrialRandom random(3);
    const std::vector<float> partial = random.floats(size_t{c.attention.splits} * cols);
    std::vector<float> stats;
    for (uint32_t i = 0; i < c.attention.splits * c.heads; ++i) {
      stats.push_back(random.next() * 4.0f + 30.0f);
      stats.push_back(random.next() + 1.5f);
    }
    std::vector<float> x(cols);
    for (uint32_t i = 0; i < cols; ++i) {
      double top = -1e30;
      double sum = 0;
      double value = 0;
      const auto stat = [&](uint32_t s) { return &stats[2 * (s * c.heads + i / c.head_dim)]; };
      for (uint32_t s = 0; s < splits; ++s) top = std::max<double>(top, stat(s)[0]);
      for (uint32_t s = 0; s < splits; ++s) {
        const double weight = std::exp(stat(s)[0] - top);
        sum += weight * stat(s)[1];
        value += weight * partial[size_t{s} * cols + i];
      }
      x[i] = static_cast<float>(value / sum);
    }
    const std::vector<double> want = trial_product(group, x.data());
    const std::vector<Step> step = {{.position = c.position}};
    CO_TRY(const gpu::Buffer partial_buffer, trial_buffer(device, partial));
    CO_TRY(const gpu::Buffer stats_buffer, trial_buffer(device, stats));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    for (const Variant& variant : variants(device)) {
      const MatvecSpec spec{.segments = group.segments,
                            .cols = cols,
                            .prologue = Prologue::kMerge,
                            .heads = c.heads,
                            .head_dim = c.head_dim,
                            .window = c.window,
                            .attention = c.attention};
      CO_TRY(const std::vector<float> y, co_await run(device, spec, variant, group, 11,
                                                      {partial_buffer, stats_buffer, step_buffer}));
      CO_TRY_VOID(
          close(y, want, variant, cat("merge of ", splits, " splits, ", name_of(spec, variant))));
    }
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
