// The self-test of the weight kernels, and the choice of a variant.
#include "engine/kernels/selftest.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "engine/base/text.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/matvec.h"
#include "engine/kernels/quantize.h"
#include "engine/kernels/selftest_matrix.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"

namespace lapidary::kernels {
namespace {

// Two super-blocks a row: both halves of words that they share.
constexpr uint32_t kCols = 512;
constexpr uint32_t kRows = 11;
constexpr uint32_t kTokens = 3;

// Codecs that one group tests: one repack each, then one matvec and one matmul for all of them.
// Integer products exist for groups without float codecs only, and a kernel for too many codecs
// takes drivers long to compile. Software GPUs take seconds for that, and differ little: the kernel
// tests cover them.
constexpr Codec kFloatCodecs[] = {Codec::kF32, Codec::kF16, Codec::kBF16};
constexpr Codec kIntegerCodecs[] = {Codec::kQ8_0, Codec::kQ4_0, Codec::kQ5_0,
                                    Codec::kQ4_K, Codec::kQ5_K, Codec::kQ6_K};
constexpr Codec kRareCodecs[] = {Codec::kQ4_1,   Codec::kQ5_1,   Codec::kQ2_K, Codec::kQ3_K,
                                 Codec::kIQ4_NL, Codec::kIQ4_XS, Codec::kMXFP4};
constexpr Codec kSoftwareCodecs[] = {Codec::kQ4_K, Codec::kQ6_K};

Task<Result<TrialGroup>> tested_group(gpu::Device& device, std::span<const Codec> codecs) {
  std::vector<TrialMatrix> matrices;
  for (const Codec codec : codecs)
    matrices.push_back(trial_matrix(codec, kRows, kCols, 1 + static_cast<uint32_t>(codec)));
  co_return co_await trial_group(device, std::move(matrices));
}

// What quantised activations may cost, for products of about 1.
double tolerance_of(Dot dot) {
  if (dot == Dot::kMatrix) return 5e-3;
  return dot == Dot::kInt8 ? 3e-2 : 1e-4;
}

Status compare(std::string_view family, const float* got, const std::vector<double>& want,
               double tolerance) {
  for (size_t i = 0; i < want.size(); ++i) {
    // Also true for NaN.
    if (!(std::fabs(got[i] - want[i]) <= tolerance)) {
      return fail(ErrorCode::kSelfTest, cat("this GPU computes ", family, " wrongly (value ", i,
                                            ": ", got[i], " instead of ", want[i],
                                            "); update the graphics driver or choose another GPU"));
    }
  }
  return {};
}

// The residual norm, whose sums are over the workgroup, feeds the product.
Task<Status> check_matvec(gpu::Device& device, const Variant& variant, const TrialGroup& group) {
  TrialRandom random(3);
  const std::vector<float> x_old = random.floats(kCols);
  const std::vector<float> delta = random.floats(kCols, 4.0f);
  std::vector<float> site = random.floats(2 * kCols, 0.25f, 1.0f);
  site.resize(2 * kCols + 4, 0.5f);
  const auto rms = [](const std::vector<double>& v) {
    double sum = 0;
    for (const double value : v) sum += value * value;
    return 1 / std::sqrt(sum / static_cast<double>(v.size()) + 1e-6);
  };
  std::vector<double> x_new(delta.begin(), delta.end());
  const double post = rms(x_new);
  for (uint32_t i = 0; i < kCols; ++i) x_new[i] = (x_old[i] + x_new[i] * post * site[i]) * 0.5;
  const double pre = rms(x_new);
  std::vector<float> h(kCols);
  for (uint32_t i = 0; i < kCols; ++i) h[i] = static_cast<float>(x_new[i] * pre * site[kCols + i]);

  const uint32_t rows = total_rows(group.segments);
  MatvecSpec spec{.segments = group.segments, .cols = kCols, .prologue = Prologue::kResidualNorm};
  if (variant.light) spec.tiling = light_tiling(spec);
  CO_TRY(const gpu::Buffer y, trial_zeros(device, rows * sizeof(float)));
  CO_TRY(const gpu::Buffer old_buffer, trial_buffer(device, x_old));
  CO_TRY(const gpu::Buffer delta_buffer, trial_buffer(device, delta));
  CO_TRY(const gpu::Buffer site_buffer, trial_buffer(device, site));
  CO_TRY(const gpu::Buffer new_buffer, trial_zeros(device, kCols * 4));
  CO_TRY_VOID(co_await trial_run(
      device, matvec_source(spec, variant),
      {group.buffer, y, old_buffer, delta_buffer, site_buffer, new_buffer}, matvec_groups(spec)));
  CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, y, rows));
  CO_TRY_VOID(
      compare("matvec", out.data(), trial_product(group, h.data()), tolerance_of(variant.dot)));
  CO_TRY(const std::vector<float> residual, co_await trial_read<float>(device, new_buffer, kCols));
  co_return compare("the residual norm", residual.data(), x_new, 1e-4);
}

// Two products between which the vector passes as bytes.
Task<Status> check_handed_over(gpu::Device& device, const Variant& variant) {
  constexpr uint32_t kBetween = 32;
  CO_TRY(const TrialGroup up,
         co_await trial_group(device, {trial_matrix(Codec::kQ4_K, kBetween, 256, 21),
                                       trial_matrix(Codec::kQ4_K, kBetween, 256, 22)}));
  CO_TRY(const TrialGroup down,
         co_await trial_group(device, {trial_matrix(Codec::kQ8_0, kRows, kBetween, 23)}));
  const std::vector<float> x = TrialRandom(5).floats(256);
  const std::vector<double> product = trial_product(up, x.data());
  std::vector<float> between(kBetween);
  for (uint32_t i = 0; i < kBetween; ++i)
    between[i] = static_cast<float>(trial_gelu(product[i]) * product[kBetween + i]);
  MatvecSpec first{.segments = up.segments,
                   .cols = 256,
                   .epilogue = Epilogue::kGeglu,
                   .quantizes = true,
                   .tiling = MatvecTiling{.threads = 128, .lanes = 8, .rows = 2}};
  MatvecSpec second{.segments = down.segments, .cols = kBetween, .prologue = Prologue::kQuantized};
  if (variant.light) {
    first.tiling = light_tiling(first);
    second.tiling = light_tiling(second);
  }
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer handed, trial_zeros(device, handed_over_bytes(kBetween)));
  CO_TRY(const gpu::Buffer y, trial_zeros(device, kRows * sizeof(float)));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(first, variant),
                                 {up.buffer, handed, x_buffer}, matvec_groups(first)));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(second, variant), {down.buffer, y, handed},
                                 matvec_groups(second)));
  CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, y, kRows));
  co_return compare("a feed-forward network", out.data(), trial_product(down, between.data()),
                    2 * tolerance_of(variant.dot));
}

Task<Status> check_matmul(gpu::Device& device, const Variant& variant, Dot dot,
                          const TrialGroup& group) {
  const std::vector<float> x = TrialRandom(4).floats(kTokens * kCols);
  const std::vector<Step> step = {{.tokens = kTokens}};
  const uint32_t rows = total_rows(group.segments);
  const MatmulSpec spec{
      .segments = group.segments, .cols = kCols, .dot = dot, .light = variant.light};
  CO_TRY(const gpu::Buffer y, trial_zeros(device, kTokens * rows * 4));
  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY(const gpu::Buffer quantized, trial_zeros(device, quantized_bytes(dot, kCols, kTokens)));
  if (dot != Dot::kF32) {
    const QuantizeSpec quantize{.cols = kCols, .dot = dot, .light = variant.light};
    CO_TRY_VOID(co_await trial_run(device, quantize_source(quantize),
                                   {x_buffer, quantized, step_buffer},
                                   quantize_groups(quantize, kTokens)));
  }
  CO_TRY_VOID(
      co_await trial_run(device, matmul_source(spec),
                         {group.buffer, y, dot == Dot::kF32 ? x_buffer : quantized, step_buffer},
                         matmul_groups(spec, kTokens)));
  CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, y, kTokens * rows));
  for (uint32_t t = 0; t < kTokens; ++t) {
    CO_TRY_VOID(compare(cat("matmul (", dot_name(dot), ")"), out.data() + t * rows,
                        trial_product(group, x.data() + t * kCols), tolerance_of(dot)));
  }
  co_return Status{};
}

// One codec: gather shares its decoding with matmul.
Task<Status> check_gather(gpu::Device& device, const TrialGroup& group) {
  const size_t last = group.matrices.size() - 1;
  const TrialMatrix& matrix = group.matrices[last];
  const std::vector<uint32_t> ids = {7, 0, kRows - 1};
  const std::vector<Step> step = {{.tokens = kTokens}};
  const GatherSpec spec{.codec = matrix.codec, .cols = kCols, .scale = 3.0f, .row_count = kRows};
  CO_TRY(const gpu::Buffer tokens, trial_buffer(device, ids));
  CO_TRY(const gpu::Buffer out_buffer, trial_zeros(device, kTokens * kCols * 4));
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY_VOID(co_await trial_run(device, gather_source(spec),
                                 {gpu::Range(group.buffer, group.segments[last].offset,
                                             packed_bytes(matrix.codec, kRows, kCols)),
                                  tokens, out_buffer, step_buffer},
                                 gather_groups(spec, kTokens)));
  CO_TRY(const std::vector<float> out,
         co_await trial_read<float>(device, out_buffer, kTokens * kCols));
  for (uint32_t i = 0; i < out.size(); ++i) {
    const float want = 3.0f * matrix.values[ids[i / kCols] * kCols + i % kCols];
    if (!(std::fabs(out[i] - want) <= 1e-5f))
      co_return fail(ErrorCode::kSelfTest, cat("this GPU gathers rows wrongly (", out[i],
                                               " instead of ", want, "); update its driver"));
  }
  co_return Status{};
}

std::string describe(const Variant& variant) {
  return cat(variant.subgroups ? "subgroups" : "no subgroups", ", ", dot_name(variant.dot));
}

void warn(std::string_view kernels, const Error& error) {
  const std::string warning = cat("kernels (", kernels, ") are not used: ", error.message);
  gpu::host_log(2, warning.data(), static_cast<uint32_t>(warning.size()));
}

// The matrix form alone, which a device may have and compute wrongly while all else is right.
Task<Status> check_matrix(gpu::Device& device, const Variant& variant, bool rare_codecs) {
  std::vector<std::span<const Codec>> groups = {kIntegerCodecs};
  if (rare_codecs) groups.emplace_back(kRareCodecs);
  for (const std::span<const Codec> codecs : groups) {
    CO_TRY(const TrialGroup group, co_await tested_group(device, codecs));
    CO_TRY_VOID(co_await check_matmul(device, variant, Dot::kMatrix, group));
  }
  co_return Status{};
}

Task<Status> check_all(gpu::Device& device, Variant variant, bool rare_codecs) {
  CO_TRY_VOID(co_await selftest_weights(device, variant, rare_codecs));
  CO_TRY_VOID(co_await selftest_attention(device, variant));
  co_return co_await selftest_sampling(device, variant);
}

}  // namespace

bool is_rare(Codec codec) { return std::ranges::find(kRareCodecs, codec) != std::end(kRareCodecs); }

Task<Status> selftest_weights(gpu::Device& device, Variant variant, bool rare_codecs) {
  std::vector<std::span<const Codec>> groups = {kFloatCodecs, kIntegerCodecs};
  if (rare_codecs) groups.emplace_back(kRareCodecs);
  if (device.info().is_software != 0) groups = {kSoftwareCodecs};
  for (const std::span<const Codec> codecs : groups) {
    CO_TRY(const TrialGroup group, co_await tested_group(device, codecs));
    CO_TRY_VOID(co_await check_matvec(device, variant, group));
    CO_TRY_VOID(co_await check_matmul(device, variant, Dot::kF32, group));
    // The forms that the tuner may choose, or that was asked for.
    for (const Dot form : matmul_forms(group.segments, variant)) {
      if (form != Dot::kF32) CO_TRY_VOID(co_await check_matmul(device, variant, form, group));
    }
    CO_TRY_VOID(co_await check_gather(device, group));
  }
  if (variant.dot != Dot::kF32) co_return co_await check_handed_over(device, variant);
  co_return Status{};
}

Task<Result<Variant>> choose_variant(gpu::Device& device, const VariantWish& wish) {
  const bool software = device.info().is_software != 0;
  const bool has_subgroups = device.has(gpu::kFeatureSubgroups);
  const bool has_integer = device.has(gpu::kFeatureDot4I8);
  const bool has_matrix = has_integer && device.has(gpu::kFeatureMatrix);
  if ((wish.subgroups == true && !has_subgroups) ||
      ((wish.dot.value_or(Dot::kF32) != Dot::kF32 ||
        wish.prefill.value_or(Dot::kF32) != Dot::kF32) &&
       !has_integer) ||
      wish.dot == Dot::kMatrix || (wish.prefill == Dot::kMatrix && !has_matrix)) {
    co_return fail(ErrorCode::kUnsupported,
                   "this GPU does not offer the variant that was asked for");
  }
  // A software GPU has no instruction for integer products.
  std::vector<Variant> candidates;
  for (const Dot dot : {Dot::kInt16, Dot::kInt8, Dot::kF32}) {
    const bool offered = dot == Dot::kF32 || (dot == Dot::kInt16 && has_integer && !software);
    if (wish.dot ? dot != *wish.dot : !offered) continue;
    // Measured on an H100: the workgroup form decodes 10 % faster, for it need not find out how
    // threads lie in subgroups.
    for (const bool subgroups : {false, true}) {
      if (wish.subgroups ? subgroups != *wish.subgroups : subgroups && !has_subgroups) continue;
      candidates.push_back(
          {.subgroups = subgroups, .light = software, .dot = dot, .prefill = wish.prefill});
    }
  }
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Status status = co_await check_all(device, candidates[i], wish.rare_codecs);
    if (status) {
      Variant chosen = candidates[i];
      if (has_matrix && !wish.prefill) {
        const Status matrix = co_await check_matrix(device, chosen, wish.rare_codecs);
        if (!matrix && matrix.error().code == ErrorCode::kDeviceLost)
          co_return std::unexpected<Error>(matrix.error());
        if (!matrix) warn(dot_name(Dot::kMatrix), matrix.error());
        chosen.matrix = matrix.has_value();
      }
      co_return chosen;
    }
    if (status.error().code == ErrorCode::kDeviceLost || i + 1 == candidates.size())
      co_return std::unexpected<Error>(status.error());
    warn(describe(candidates[i]), status.error());
  }
  co_return fail(ErrorCode::kInternal, "no variant was a candidate");
}

}  // namespace lapidary::kernels
