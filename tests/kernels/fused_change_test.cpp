// Low-rank changes that the kernels of one token make by themselves, against plain double loops:
// each way that A h comes in, and each that the next product's goes out.
#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/kernels/arrange.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/fused_change.h"
#include "engine/kernels/matvec.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "engine/kernels/trial_attention.h"
#include "tests/kernels/groups.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

double tolerance_of(Dot dot) { return dot == Dot::kF32 ? 5e-5 : dot == Dot::kInt16 ? 3e-4 : 6e-2; }

Status close(std::span<const float> got, const std::vector<double>& want, double tolerance,
             const std::string& what) {
  for (size_t i = 0; i < want.size(); ++i) {
    if (!(std::fabs(got[i] - want[i]) <= tolerance * std::max(1.0, std::fabs(want[i]))))
      return fail(ErrorCode::kInternal,
                  cat(what, " at ", i, ": ", got[i], " instead of ", want[i]));
  }
  return {};
}

// Random values for the buffer `adapter`, such that it can hold.
std::vector<float> trial_adapter(const FusedChange& fused) {
  std::vector<float> values = TrialRandom(3).floats(fused.values(), 0.2f);
  if (!fused.bf16) return values;
  for (float& value : values)
    value = std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0xffff0000);
  return values;
}
Result<gpu::Buffer> adapter_buffer_of(gpu::Device& device, const FusedChange& fused,
                                      const std::vector<float>& values) {
  if (!fused.bf16) return trial_buffer(device, values);
  std::vector<uint32_t> words(values.size() / 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t half = std::bit_cast<uint32_t>(values[i]) >> 16;
    words[i / 8 * 4 + i % 4] |= half << (i % 8 < 4 ? 0 : 16);
  }
  return trial_buffer(device, words);
}

// What it adds to the rows of all parts, given A h.
std::vector<double> added(const FusedChange& fused, const std::vector<float>& adapter,
                          const std::vector<double>& low) {
  std::vector<double> out;
  uint32_t first = 0;
  for (size_t p = 0; p < fused.parts.size(); ++p) {
    const auto [rank, rows] = fused.parts[p];
    for (uint32_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (uint32_t r = 0; r < rank; ++r) {
        sum += double{adapter[fused.b_offset(p) + uint64_t{row} * rank + r]} * low[first + r];
      }
      out.push_back(sum);
    }
    first += rank;
  }
  return out;
}

// V and U of the next product, which lie behind the product's rows: its input is z, the stream
// `residual`.
std::vector<double> next_of(const FusedChange& fused, const std::vector<float>& adapter,
                            const std::vector<double>& low, const std::vector<float>& z,
                            const std::vector<float>& residual) {
  std::vector<double> out(kLowU + fused.next_rank);
  for (uint32_t r = 0; r < fused.next_rank; ++r) {
    for (uint32_t i = 0; i < fused.cols; ++i)
      out[r] += double{adapter[fused.v_offset() + uint64_t{r} * fused.cols + i]} * z[i];
    for (uint32_t k = 0; k < fused.rank(); ++k) {
      out[r] += double{adapter[fused.mixed_offset() + uint64_t{r} * fused.rank() + k]} * low[k];
    }
    for (uint32_t i = 0; i < fused.hidden; ++i)
      out[kLowU + r] +=
          double{adapter[fused.u_offset() + uint64_t{r} * fused.hidden + i]} * residual[i];
  }
  return out;
}

Task<Status> expect_next(gpu::Device& device, const gpu::Buffer& y, uint32_t rows,
                         const FusedChange& fused, const std::vector<double>& want,
                         double tolerance, std::string what) {
  CO_TRY(std::vector<float> got,
         co_await trial_read<float>(device, y, rows + kLowU + fused.next_rank));
  got.erase(got.begin(), got.begin() + rows);
  CO_TRY_VOID(close({got.data(), fused.next_rank}, {want.begin(), want.begin() + fused.next_rank},
                    tolerance, cat(what, ", V")));
  co_return close({got.data() + kLowU, fused.next_rank}, {want.begin() + kLowU, want.end()},
                  tolerance, cat(what, ", U"));
}

// Gate and up behind a norm site; of what they give the pieces of A of down are handed over.
Task<Status> expect_gate_up(gpu::Device& device, const Variant& variant, bool has_post,
                            std::optional<MatvecTiling> tiling) {
  constexpr uint32_t kCols = 64;
  constexpr uint32_t kRows = 96;
  CO_TRY(const TrialGroup group,
         co_await make_group(device, {{Codec::kQ8_0, kRows}, {Codec::kQ8_0, kRows}}, kCols));
  MatvecSpec spec{.segments = group.segments,
                  .cols = kCols,
                  .prologue = Prologue::kResidualNorm,
                  .epilogue = Epilogue::kGeglu,
                  .has_post = has_post,
                  .fused = {.parts = {{8, kRows}, {16, kRows}},
                            .cols = kCols,
                            .handed_rank = 24,
                            .handed_cols = kRows,
                            .bf16 = variant.dot != Dot::kF32},
                  .tiling = tiling};
  if (variant.light) spec.tiling = light_tiling(spec);
  const FusedChange& fused = spec.fused;
  const std::vector<float> adapter = trial_adapter(fused);
  TrialRandom random(7);
  const std::vector<float> x_old = random.floats(kCols, 3.0f);
  // The update, and behind it V and U.
  const std::vector<float> delta = random.floats(kCols + kLowFloats, 2.0f);
  const float* const sums = delta.data() + kCols;
  std::vector<float> site = random.floats(2 * kCols, 0.5f, 1.0f);
  site.resize(2 * kCols + 4, 0.75f);
  const uint32_t pieces = handed_pieces(spec);

  const auto rms = [](std::span<const double> v) {
    double sum = 0;
    for (const double x : v) sum += x * x;
    return 1 / std::sqrt(sum / static_cast<double>(v.size()) + 1e-6);
  };
  const std::vector<double> update(delta.begin(), delta.begin() + kCols);
  const double factor = has_post ? rms(update) : 1;
  std::vector<double> x_new(kCols);
  for (uint32_t i = 0; i < kCols; ++i)
    x_new[i] = (x_old[i] + factor * delta[i] * (has_post ? site[i] : 1.0)) * 0.75;
  const double gain = rms(x_new);
  std::vector<float> h(kCols);
  for (uint32_t i = 0; i < kCols; ++i) h[i] = static_cast<float>(x_new[i] * gain * site[kCols + i]);
  std::vector<double> low;
  for (uint32_t r = 0; r < fused.rank(); ++r)
    low.push_back(gain * 0.75 * (sums[kLowU + r] + factor * sums[r]));
  const std::vector<double> product = trial_product(group, h.data());
  const std::vector<double> more = added(fused, adapter, low);
  std::vector<double> want(kRows);
  for (uint32_t i = 0; i < kRows; ++i)
    want[i] = trial_gelu(product[i] + more[i]) * (product[kRows + i] + more[kRows + i]);
  std::vector<double> handed(fused.handed_rank);
  for (uint32_t r = 0; r < fused.handed_rank; ++r) {
    for (uint32_t i = 0; i < kRows; ++i)
      handed[r] += adapter[fused.handed_offset() + uint64_t{i} * fused.handed_rank + r] * want[i];
  }

  const uint64_t outputs = kRows + uint64_t{pieces} * fused.handed_rank;
  CO_TRY(const gpu::Buffer y, trial_zeros(device, outputs * 4));
  CO_TRY(const gpu::Buffer old_buffer, trial_buffer(device, x_old));
  CO_TRY(const gpu::Buffer delta_buffer, trial_buffer(device, delta));
  CO_TRY(const gpu::Buffer site_buffer, trial_buffer(device, site));
  CO_TRY(const gpu::Buffer new_buffer, trial_zeros(device, kCols * 4));
  CO_TRY(const gpu::Buffer adapter_buffer, adapter_buffer_of(device, fused, adapter));
  CO_TRY_VOID(co_await trial_run(
      device, matvec_source(spec, variant),
      {group.buffer, y, old_buffer, delta_buffer, site_buffer, new_buffer, adapter_buffer},
      matvec_groups(spec)));
  const double tolerance = 8 * tolerance_of(variant.dot);  // products of two, and sums of them
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, y, outputs));
  CO_TRY_VOID(close(got, want, tolerance, cat("gate and up, ", dot_name(variant.dot))));
  std::vector<float> total(fused.handed_rank);
  for (uint32_t p = 0; p < pieces; ++p) {
    for (uint32_t r = 0; r < fused.handed_rank; ++r)
      total[r] += got[kRows + p * fused.handed_rank + r];
  }
  co_return close(total, handed, 4 * tolerance, cat("handed over, ", dot_name(variant.dot)));
}

// Software GPUs compile these kernels slowly: of forms that differ in one part only, few.
KERNEL_TEST(fused_change_after_a_norm) {
  CO_TRY_VOID(co_await expect_gate_up(device, variants(device).back(), true, std::nullopt));
  // As real GPUs run it, several rows a thread.
  co_return co_await expect_gate_up(device, {.dot = Dot::kInt16}, false, MatvecTiling{64, 8, 2});
}

// A product whose A h comes in pieces, and that computes V and U of the next one; two segments.
Task<Status> expect_pieces(gpu::Device& device, const Variant& variant) {
  constexpr uint32_t kCols = 160;
  constexpr uint32_t kHidden = 96;
  constexpr uint32_t kPieces = 21;
  CO_TRY(const TrialGroup group,
         co_await make_group(device, {{Codec::kQ8_0, 40}, {Codec::kQ8_0, 9}}, kCols));
  MatvecSpec spec{.segments = group.segments,
                  .cols = kCols,
                  .fused = {.parts = {{16, 40}, {8, 9}},
                            .cols = kCols,
                            .pieces = kPieces,
                            .next_rank = 8,
                            .hidden = kHidden,
                            .bf16 = variant.dot != Dot::kF32}};
  if (variant.light) spec.tiling = light_tiling(spec);
  const FusedChange& fused = spec.fused;
  const std::vector<float> adapter = trial_adapter(fused);
  TrialRandom random(8);
  // The input, and behind it the pieces.
  const std::vector<float> z = random.floats(kCols + kPieces * fused.rank());
  const std::vector<float> residual = random.floats(kHidden);
  std::vector<double> low(fused.rank());
  for (uint32_t p = 0; p < kPieces; ++p) {
    for (uint32_t r = 0; r < fused.rank(); ++r) low[r] += z[kCols + p * fused.rank() + r];
  }
  std::vector<double> want = trial_product(group, z.data());
  const std::vector<double> more = added(fused, adapter, low);
  for (size_t i = 0; i < want.size(); ++i) want[i] += more[i];

  CO_TRY(const gpu::Buffer y, trial_zeros(device, (want.size() + kLowFloats) * 4));
  CO_TRY(const gpu::Buffer z_buffer, trial_buffer(device, z));
  CO_TRY(const gpu::Buffer adapter_buffer, adapter_buffer_of(device, fused, adapter));
  CO_TRY(const gpu::Buffer residual_buffer, trial_buffer(device, residual));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(spec, variant),
                                 {group.buffer, y, z_buffer, adapter_buffer, residual_buffer},
                                 matvec_groups(spec)));
  const double tolerance = 2 * tolerance_of(variant.dot);
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, y, want.size()));
  CO_TRY_VOID(close(got, want, tolerance, cat("pieces, ", dot_name(variant.dot))));
  co_return co_await expect_next(device, y, 49, fused, next_of(fused, adapter, low, z, residual),
                                 4 * tolerance, std::string(dot_name(variant.dot)));
}

KERNEL_TEST(fused_change_of_pieces) {
  for (const Variant& variant : dot_variants(device)) {
    if (variant.dot != Dot::kF32) CO_TRY_VOID(co_await expect_pieces(device, variant));
  }
  co_return co_await expect_pieces(device, unrolled_variants(device).back());
}

// A feed-forward network: gate and up hand over pieces of down's A h, and the vector in bytes.
Task<Status> expect_feed_forward(gpu::Device& device, const Variant& variant, MatvecTiling first,
                                 MatvecTiling second) {
  constexpr uint32_t kCols = 64;
  constexpr uint32_t kFfn = 480;
  constexpr uint32_t kRows = 37;
  constexpr uint32_t kRank = 24;
  CO_TRY(const TrialGroup group,
         co_await make_group(device, {{Codec::kQ8_0, kFfn}, {Codec::kQ8_0, kFfn}}, kCols));
  CO_TRY(const TrialGroup last, co_await make_group(device, {{Codec::kQ8_0, kRows}}, kFfn));
  MatvecSpec gate_up{
      .segments = group.segments,
      .cols = kCols,
      .epilogue = Epilogue::kGeglu,
      .quantizes = true,
      .fused = {.cols = kCols, .handed_rank = kRank, .handed_cols = kFfn, .bf16 = true},
      .tiling = first};
  const uint32_t pieces = handed_pieces(gate_up);
  const MatvecSpec down{
      .segments = last.segments,
      .cols = kFfn,
      .prologue = Prologue::kQuantized,
      .fused = {.parts = {{kRank, kRows}}, .cols = kFfn, .pieces = pieces, .bf16 = true},
      .tiling = second};
  const std::vector<float> a = trial_adapter(gate_up.fused);
  const std::vector<float> b = trial_adapter(down.fused);
  const std::vector<float> x = TrialRandom(8).floats(kCols);
  const std::vector<double> product = trial_product(group, x.data());
  std::vector<float> z(kFfn);
  for (uint32_t i = 0; i < kFfn; ++i)
    z[i] = static_cast<float>(trial_gelu(product[i]) * product[kFfn + i]);
  std::vector<double> low(kRank);
  for (uint32_t r = 0; r < kRank; ++r) {
    for (uint32_t i = 0; i < kFfn; ++i)
      low[r] += double{a[gate_up.fused.handed_offset() + uint64_t{i} * kRank + r]} * z[i];
  }
  std::vector<double> want = trial_product(last, z.data());
  const std::vector<double> more = added(down.fused, b, low);
  for (size_t i = 0; i < want.size(); ++i) want[i] += more[i];

  CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
  CO_TRY(const gpu::Buffer a_buffer, adapter_buffer_of(device, gate_up.fused, a));
  CO_TRY(const gpu::Buffer b_buffer, adapter_buffer_of(device, down.fused, b));
  CO_TRY(const gpu::Buffer middle, trial_zeros(device, (kFfn + uint64_t{pieces} * kRank) * 4));
  CO_TRY(const gpu::Buffer y, trial_zeros(device, kRows * 4));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(gate_up, variant),
                                 {group.buffer, middle, x_buffer, a_buffer},
                                 matvec_groups(gate_up)));
  CO_TRY_VOID(co_await trial_run(device, matvec_source(down, variant),
                                 {last.buffer, y, middle, b_buffer}, matvec_groups(down)));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, y, kRows));
  co_return close(got, want, 4 * tolerance_of(variant.dot),
                  cat("feed-forward, ", dot_name(variant.dot)));
}

// As real GPUs run it: fewer pieces than threads to sum them, and more.
KERNEL_TEST(fused_change_of_feed_forward) {
  Variant variant = unrolled_variants(device).back();
  variant.dot = Dot::kInt16;
  CO_TRY_VOID(co_await expect_feed_forward(device, variant, {64, 4, 2}, {128, 16, 1}));
  co_return co_await expect_feed_forward(device, variant, {64, 4, 1}, {64, 8, 2});
}

// Attention leaves the output's A h in pieces, which the output merges as it merges the sums.
Task<Status> expect_attention(gpu::Device& device, const Variant& variant, uint32_t position,
                              AttentionTiling tiling) {
  constexpr uint32_t kHidden = 64;
  constexpr uint32_t kRank = 24;
  const AttentionSpec spec{.heads = 4,
                           .kv_heads = 2,
                           .head_dim = 16,
                           .slots = 512,
                           .rotated_pairs = 8,
                           .kv_type = KvType::kF32,
                           .tiling = tiling};
  constexpr uint32_t kCols = 64;
  const uint32_t rows = spec.qkv_rows();
  TrialRandom random(4);
  const std::vector<float> norms = random.floats(32, 0.15f, 0.45f);
  AttentionOracle oracle(spec, norms);
  CO_TRY(TrialLayer layer, trial_layer(device, spec, norms, 1, 512));
  const uint64_t sums = uint64_t{spec.tiling.splits} * kCols;
  CO_TRY(layer.partial,
         trial_zeros(device, (sums + uint64_t{spec.tiling.splits} * spec.heads * kRank) * 4));
  const bool bf16 = variant.dot != Dot::kF32;
  const FusedChange handed{
      .parts = {{8, 64}}, .handed_rank = kRank, .handed_cols = kCols, .bf16 = bf16};
  const std::vector<float> a = trial_adapter(handed);
  CO_TRY(const gpu::Buffer a_buffer, adapter_buffer_of(device, handed, a));
  CO_TRY(const gpu::Kernel kernel,
         co_await trial_kernel(device, attention_decode_source(spec, variant, handed)));
  // The cache up to the position.
  std::vector<float> cache_k;
  std::vector<float> cache_v;
  const uint32_t width = spec.kv_heads * spec.head_dim;
  for (uint32_t p = 0; p < position; ++p) {
    const std::vector<float> k = random.floats(width);
    const std::vector<float> v = random.floats(width);
    oracle.append_rows(k, v);
    cache_k.insert(cache_k.end(), k.begin(), k.end());
    cache_v.insert(cache_v.end(), v.begin(), v.end());
  }
  if (position > 0) {
    device.write(layer.k, 0, std::as_bytes(std::span(cache_k)));
    device.write(layer.v, 0, std::as_bytes(std::span(cache_v)));
  }
  const std::vector<float> qkv = random.floats(rows, 2.0f);
  oracle.append(qkv.data());
  const std::vector<double> attended = oracle.attend(qkv.data(), position);
  CO_TRY(const std::vector<float> got,
         co_await trial_decode(device, layer, kernel, qkv, position, 0, {a_buffer}));
  KERNEL_EXPECT(largest_difference(got, attended) < 3e-5, "attention itself, at ", position);

  CO_TRY(const TrialGroup group, co_await make_group(device, {{Codec::kQ8_0, 37}}, kCols));
  MatvecSpec output{
      .segments = group.segments,
      .cols = kCols,
      .prologue = Prologue::kMerge,
      .heads = spec.heads,
      .head_dim = spec.head_dim,
      .attention = spec.tiling,
      .fused = {
          .parts = {{kRank, 37}}, .cols = kCols, .next_rank = 8, .hidden = kHidden, .bf16 = bf16}};
  if (variant.light) output.tiling = light_tiling(output);
  const FusedChange& fused = output.fused;
  const std::vector<float> adapter = trial_adapter(fused);
  const std::vector<float> residual = random.floats(kHidden);
  std::vector<double> low(kRank);
  for (uint32_t r = 0; r < kRank; ++r) {
    for (uint32_t i = 0; i < kCols; ++i)
      low[r] += a[handed.handed_offset() + uint64_t{i} * kRank + r] * attended[i];
  }
  const std::vector<float> z(attended.begin(), attended.end());
  std::vector<double> want = trial_product(group, z.data());
  const std::vector<double> more = added(fused, adapter, low);
  for (size_t i = 0; i < want.size(); ++i) want[i] += more[i];
  CO_TRY(const gpu::Buffer y, trial_zeros(device, (37 + kLowFloats) * 4));
  CO_TRY(const gpu::Buffer adapter_buffer, adapter_buffer_of(device, fused, adapter));
  CO_TRY(const gpu::Buffer residual_buffer, trial_buffer(device, residual));
  CO_TRY_VOID(co_await trial_run(
      device, matvec_source(output, variant),
      {group.buffer, y, layer.partial, layer.stats, adapter_buffer, residual_buffer, layer.step},
      matvec_groups(output)));
  CO_TRY(const std::vector<float> y_values, co_await trial_read<float>(device, y, 37));
  const double tolerance = 2 * tolerance_of(variant.dot);
  CO_TRY_VOID(close(y_values, want, tolerance, cat("merged at ", position)));
  co_return co_await expect_next(device, y, 37, fused, next_of(fused, adapter, low, z, residual),
                                 4 * tolerance, cat("merged at ", position));
}

// Not the usual cut: seven splits, of which the last is short, by fewer threads.
KERNEL_TEST(fused_change_of_attention) {
  co_return co_await expect_attention(device, variants(device).front(), 209,
                                      {.threads = 128, .keys = 32, .splits = 7});
}

// A transposed part of a matrix, times weights of its columns, in f32 and in bf16.
KERNEL_TEST(fused_change_arranged) {
  constexpr uint32_t kRows = 5;
  constexpr uint32_t kCols = 70;
  TrialRandom random(2);
  const std::vector<float> in = random.floats(3 + kCols * 6);
  const std::vector<float> weights = random.floats(2 * kCols + 4);
  CO_TRY(const gpu::Buffer in_buffer, trial_buffer(device, in));
  CO_TRY(const gpu::Buffer weight_buffer, trial_buffer(device, weights));
  const ArrangeSpec spec{.rows = kRows,
                         .cols = kCols,
                         .in_offset = 3,
                         .in_row = 1,
                         .in_col = 6,
                         .out_offset = 16,
                         .out_row = 72,
                         .first = 4,
                         .second = kCols};
  const std::vector<float> before(16 + kRows * 72, 7.0f);
  std::vector<double> want(before.begin(), before.end());
  for (uint32_t i = 0; i < kRows; ++i) {
    for (uint32_t j = 0; j < kCols; ++j)
      want[16 + i * 72 + j] = double{in[3 + i + j * 6]} * weights[4 + j] * weights[kCols + j];
  }
  CO_TRY(const gpu::Buffer params, trial_buffer(device, std::vector<ArrangeSpec>{spec}));
  CO_TRY(const gpu::Buffer out, trial_buffer(device, before));
  CO_TRY_VOID(co_await trial_run(device, arrange_source(false),
                                 {in_buffer, out, weight_buffer, params},
                                 arrange_groups(spec, false)));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, before.size()));
  CO_TRY_VOID(close(got, want, 1e-6, "arranged"));

  CO_TRY(const gpu::Buffer halves, trial_zeros(device, before.size() * 2));
  CO_TRY_VOID(co_await trial_run(device, arrange_source(true),
                                 {in_buffer, halves, weight_buffer, params},
                                 arrange_groups(spec, true)));
  CO_TRY(const std::vector<uint32_t> words,
         co_await trial_read<uint32_t>(device, halves, before.size() / 2));
  for (size_t i = 16; i < want.size(); ++i) {
    const bool inside = (i - 16) % 72 < kCols;
    const uint32_t word = words[i / 8 * 4 + i % 4];
    const auto value = std::bit_cast<float>(i % 8 < 4 ? word << 16 : word & 0xffff0000);
    const double right = inside ? want[i] : 0;
    // Half of the last of 8 bits.
    KERNEL_EXPECT(std::fabs(value - right) <= std::ldexp(std::fabs(right), -8) + 1e-30, "bf16 at ",
                  i, ": ", value, " instead of ", right);
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
