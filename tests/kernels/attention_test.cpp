// Attention kernels against a plain double-precision model of gemma4.md §4.3 and §4.5.
#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/trial_attention.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

// A cached element that lies within float error of the middle of two that the cache's type has may
// round either way. Where its weight is near 1 that shows: one unit in the last place of a half
// between 1 and 2, or a step of a block of 8-bit integers whose largest is below 2.
double tolerance(const AttentionSpec& spec) {
  switch (spec.kv_type) {
    case KvType::kF32:
      return 2e-5;
    case KvType::kQ8_0:
      return 2e-2;
    case KvType::kF16:
      break;
  }
  return 1e-3;
}

// Prefill in two chunks, then decode token by token, against the oracle.
Task<Status> check_layer(gpu::Device& device, AttentionSpec spec, uint32_t chunk, uint32_t second,
                         uint32_t decoded, bool shared = false, std::vector<Variant> forms = {}) {
  if (forms.empty()) forms = variants(device);
  const uint32_t n = spec.head_dim;
  const uint32_t total = chunk + second + decoded;
  TrialRandom random(n * 131 + spec.heads * 17 + spec.window);
  std::vector<float> norms = random.floats(2 * n, 0.15f, 0.45f);
  const uint32_t rows = spec.qkv_rows();
  const std::vector<float> raw = random.floats(size_t{total} * rows, 2.0f);
  AttentionOracle oracle(spec, norms);
  std::vector<std::vector<double>> wanted;
  for (uint32_t t = 0; t < total; ++t) {
    oracle.append(raw.data() + size_t{t} * rows);
    wanted.push_back(oracle.attend(raw.data() + size_t{t} * rows, t));
  }
  for (Variant variant : forms) {
    const auto where = [&](uint32_t t, double d) {
      return cat("token ", t, " differs by ", d, ", subgroups ", variant.subgroups);
    };
    CO_TRY(TrialLayer layer, trial_layer(device, spec, norms, std::max(chunk, second), total));
    CO_TRY(const TrialKernels kernels, co_await trial_kernels(device, spec, variant));
    uint32_t position = 0;
    uint32_t exact = 0;
    for (uint32_t tokens : {chunk, second}) {
      if (tokens == 0) continue;
      const auto qkv = std::span(raw).subspan(position * rows, tokens * rows);
      CO_TRY(const std::vector<float> out,
             co_await trial_prefill(device, layer, kernels, qkv, position));
      for (uint32_t t = 0; t < tokens; ++t) {
        const size_t size = wanted[0].size();
        const double d =
            largest_difference(std::span(out).subspan(t * size, size), wanted[position + t]);
        KERNEL_EXPECT(d < tolerance(spec), "prefill ", where(position + t, d));
        exact += d < 2e-5;
      }
      position += tokens;
    }
    for (; position < total; ++position) {
      const auto qkv = std::span(raw).subspan(position * rows, rows);
      CO_TRY(const std::vector<float> out,
             co_await trial_decode(device, layer, kernels.decode, qkv, position));
      const double d = largest_difference(out, wanted[position]);
      KERNEL_EXPECT(d < tolerance(spec), "decode ", where(position, d));
      exact += d < 2e-5;
    }
    // Few elements are that near a middle: most outputs are as good as with a cache of floats.
    KERNEL_EXPECT(2 * exact >= total, "only ", exact, " of ", total, " are within float error");
    if (!shared) continue;
    // A layer that shares this cache sees the last token as its owner left it.
    AttentionSpec sharing = spec;
    sharing.shares_kv = true;
    layer.spec = sharing;
    CO_TRY(const TrialKernels readers, co_await trial_kernels(device, sharing, variant));
    const auto last = std::span(raw).subspan((total - 1) * rows, sharing.qkv_rows());
    CO_TRY(const std::vector<float> out,
           co_await trial_decode(device, layer, readers.decode, last, total - 1));
    const double d = largest_difference(out, wanted[total - 1]);
    KERNEL_EXPECT(d < tolerance(spec), "shared ", where(total - 1, d));
    CO_TRY(const std::vector<float> one,
           co_await trial_prefill(device, layer, readers, last, total - 1));
    const double e = largest_difference(one, wanted[total - 1]);
    KERNEL_EXPECT(e < tolerance(spec), "shared prefill ", where(total - 1, e));
  }
  co_return Status{};
}

AttentionSpec shape(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t window,
                    uint32_t slots) {
  return {.heads = heads,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .window = window,
          .slots = slots,
          .rotated_pairs = head_dim / 2};
}

KERNEL_TEST(attention_head_64_global) {
  co_return co_await check_layer(device, shape(4, 2, 64, 0, 90), 70, 13, 4, true);
}
KERNEL_TEST(attention_head_64_global_f32) {
  AttentionSpec spec = shape(4, 2, 64, 0, 90);
  spec.kv_type = KvType::kF32;
  co_return co_await check_layer(device, spec, 70, 13, 4);
}
// 8-bit integers: whole blocks; a block and a half, several rows of scales, odd ends.
KERNEL_TEST(attention_head_64_q8_0) {
  AttentionSpec spec = shape(4, 2, 64, 0, 90);
  spec.kv_type = KvType::kQ8_0;
  co_return co_await check_layer(device, spec, 70, 13, 4, true);
}
KERNEL_TEST(attention_q8_0_shapes) {
  AttentionSpec wide = shape(2, 1, 512, 20, 60);
  wide.v_from_k = true;
  AttentionSpec seventy_two = shape(2, 2, 72, 0, 20);
  AttentionSpec ten = shape(6, 2, 10, 4, 12);
  for (AttentionSpec* spec : {&wide, &seventy_two, &ten}) {
    spec->kv_type = KvType::kQ8_0;
    CO_TRY_VOID(co_await check_layer(device, *spec, 9, 2, 3, false, {variants(device).front()}));
  }
  co_return Status{};
}
KERNEL_TEST(attention_head_128_window) {
  co_return co_await check_layer(device, shape(2, 1, 128, 24, 24 - 1 + 40), 40, 37, 6, false,
                                 all_variants(device));
}
// As real GPUs run it, on a cache that is shared.
Task<Status> check_unrolled(gpu::Device& device, KvType type) {
  AttentionSpec spec = shape(2, 1, 16, 7, 7 - 1 + 12);
  spec.kv_type = type;
  co_return co_await check_layer(device, spec, 12, 5, 3, true, unrolled_variants(device));
}
KERNEL_TEST(attention_unrolled_f32) { co_return co_await check_unrolled(device, KvType::kF32); }
KERNEL_TEST(attention_unrolled_q8_0) { co_return co_await check_unrolled(device, KvType::kQ8_0); }
KERNEL_TEST(attention_head_256_window_f32) {
  AttentionSpec spec = shape(8, 1, 256, 20, 60);
  spec.kv_type = KvType::kF32;
  co_return co_await check_layer(device, spec, 33, 41, 3, true);
}
KERNEL_TEST(attention_head_512_partly_rotated) {
  AttentionSpec spec = shape(2, 1, 512, 0, 64);
  spec.rotated_pairs = 64;
  co_return co_await check_layer(device, spec, 17, 30, 4);
}
KERNEL_TEST(attention_head_512_v_from_k) {
  AttentionSpec spec = shape(4, 2, 512, 0, 64);
  spec.rotated_pairs = 64;
  spec.v_from_k = true;
  spec.kv_type = KvType::kF32;
  co_return co_await check_layer(device, spec, 20, 0, 2);
}
KERNEL_TEST(attention_odd_heads) {
  AttentionSpec tiny = shape(3, 3, 2, 0, 9);
  CO_TRY_VOID(co_await check_layer(device, tiny, 5, 1, 3));
  AttentionSpec ten = shape(6, 2, 10, 4, 12);
  ten.rotated_pairs = 3;
  ten.kv_type = KvType::kF32;
  CO_TRY_VOID(co_await check_layer(device, ten, 9, 2, 5));
  AttentionSpec seventy_two = shape(2, 2, 72, 0, 20);
  CO_TRY_VOID(co_await check_layer(device, seventy_two, 11, 0, 3));
  AttentionSpec unturned = shape(1, 1, 8, 0, 4);
  unturned.rotated_pairs = 0;
  CO_TRY_VOID(co_await check_layer(device, unturned, 2, 0, 2));
  AttentionSpec wide = shape(2, 1, 390, 0, 70);
  wide.v_from_k = true;
  co_return co_await check_layer(device, wide, 66, 0, 1);
}
// A ring of exactly the window's size serves decode, round and round.
KERNEL_TEST(attention_decode_ring) {
  AttentionSpec spec = shape(2, 1, 16, 7, 7);
  spec.kv_type = KvType::kF32;
  co_return co_await check_layer(device, spec, 1, 0, 24);
}

// The next token of every sequence in one step, whose splits a kernel merges.
Task<Status> check_rows(gpu::Device& device, const TrialLayer& layer,
                        std::vector<AttentionOracle>& oracles, std::span<const uint32_t> positions,
                        Variant variant) {
  const AttentionSpec& spec = layer.spec;
  const auto count = static_cast<uint32_t>(oracles.size());
  const size_t width = size_t{spec.heads} * spec.head_dim;
  TrialRandom random(count + 77);
  std::vector<float> raw;
  std::vector<double> wanted;
  std::vector<Step> steps(kMaxStepRows);
  for (uint32_t s = 0; s < count; ++s) {
    const std::vector<float> token = random.floats(spec.qkv_rows(), 2.0f);
    oracles[s].append(token.data());
    const std::vector<double> out = oracles[s].attend(token.data(), positions[s]);
    raw.insert(raw.end(), token.begin(), token.end());
    wanted.insert(wanted.end(), out.begin(), out.end());
    steps[s] = {.position = positions[s], .sequence = count - s};
  }
  // Some room between the rows.
  const auto stride = static_cast<uint32_t>(spec.tiling.splits * width + 8);
  CO_TRY(const gpu::Kernel kernel,
         co_await trial_kernel(device, attention_rows_source(spec, variant, {}, stride)));
  CO_TRY(const gpu::Buffer qkv, trial_buffer(device, raw));
  CO_TRY(const gpu::Buffer places, trial_buffer(device, steps));
  CO_TRY(const gpu::Buffer partial, trial_zeros(device, uint64_t{4} * count * stride));
  const uint32_t stats_stride = 2 * spec.tiling.splits * spec.heads;
  CO_TRY(const gpu::Buffer stats, trial_zeros(device, uint64_t{4} * count * stats_stride));
  const std::vector<gpu::Range> ranges = {qkv,     layer.norms, layer.rope, layer.k,
                                          layer.v, partial,     stats,      places};
  const uint32_t last = *std::ranges::max_element(positions);
  CO_TRY_VOID(trial_dispatch(device, kernel, ranges, attention_rows_groups(spec, count, last)));
  CO_TRY(const std::vector<float> sums,
         co_await trial_read<float>(device, partial, size_t{count} * stride));
  CO_TRY(const std::vector<float> all_stats,
         co_await trial_read<float>(device, stats, size_t{count} * stats_stride));
  for (uint32_t s = 0; s < count; ++s) {
    const std::vector<float> got = merged_splits(
        spec, std::span(sums).subspan(size_t{s} * stride, stride),
        std::span(all_stats).subspan(size_t{s} * stats_stride, stats_stride), positions[s]);
    const double d = largest_difference(got, std::span(wanted).subspan(s * width, width));
    KERNEL_EXPECT(d < tolerance(spec), "row ", s, " differs by ", d);
  }
  co_return Status{};
}

// Prompts of several sequences in one batch, each over its own cache: whole ones, the rest of one
// that has begun, a single token; then decode in one of them.
Task<Status> check_sequences(gpu::Device& device, AttentionSpec spec,
                             const std::vector<uint32_t>& begun,
                             const std::vector<uint32_t>& tokens, Variant variant) {
  const uint32_t n = spec.head_dim;
  const uint32_t rows = spec.qkv_rows();
  const size_t width = size_t{spec.heads} * n;
  const auto sequences = static_cast<uint32_t>(tokens.size());
  spec.sequences = sequences + 1;  // the first is not used
  TrialRandom random(n * 7 + sequences);
  const std::vector<float> norms = random.floats(2 * n, 0.15f, 0.45f);
  CO_TRY(const TrialLayer layer, trial_layer(device, spec, norms, 200, 200));
  CO_TRY(const TrialKernels kernels, co_await trial_kernels(device, spec, variant));
  std::vector<AttentionOracle> oracles(sequences, AttentionOracle(spec, norms));
  for (const bool second : {false, true}) {
    std::vector<float> raw;
    std::vector<double> wanted;
    std::vector<TokenSpan> spans;
    for (uint32_t s = 0; s < sequences; ++s) {
      const uint32_t count = second ? tokens[s] : begun[s];
      if (count == 0) continue;
      const uint32_t position = second ? begun[s] : 0;
      spans.push_back({.first = static_cast<uint32_t>(raw.size() / rows),
                       .tokens = count,
                       .position = position,
                       .sequence = sequences - s});
      for (uint32_t t = 0; t < count; ++t) {
        const std::vector<float> token = random.floats(rows, 2.0f);
        oracles[s].append(token.data());
        const std::vector<double> out = oracles[s].attend(token.data(), position + t);
        raw.insert(raw.end(), token.begin(), token.end());
        wanted.insert(wanted.end(), out.begin(), out.end());
      }
    }
    CO_TRY(const std::vector<float> out,
           co_await trial_prefill(device, layer, kernels, raw, spans));
    KERNEL_EXPECT(out.size() == wanted.size(), "has ", out.size(), " values");
    for (const TokenSpan& span : spans) {
      const size_t at = span.first * width;
      const double d = largest_difference(std::span(out).subspan(at, span.tokens * width),
                                          std::span(wanted).subspan(at, span.tokens * width));
      KERNEL_EXPECT(d < tolerance(spec), "sequence ", span.sequence, " differs by ", d);
    }
  }
  const std::vector<float> token = random.floats(rows, 2.0f);
  const uint32_t position = begun[1] + tokens[1];
  oracles[1].append(token.data());
  CO_TRY(const std::vector<float> out,
         co_await trial_decode(device, layer, kernels.decode, token, position, sequences - 1));
  const double d = largest_difference(out, oracles[1].attend(token.data(), position));
  KERNEL_EXPECT(d < tolerance(spec), "decode differs by ", d);
  std::vector<uint32_t> positions;
  for (uint32_t s = 0; s < sequences; ++s) positions.push_back(begun[s] + tokens[s]);
  ++positions[1];
  co_return co_await check_rows(device, layer, oracles, positions, variant);
}

// Their kernels are those of tests above, which software GPUs take long to compile.
KERNEL_TEST(attention_sequences_global) {
  AttentionSpec spec = shape(4, 2, 64, 0, 90);
  spec.kv_type = KvType::kF32;
  for (const Variant& variant : variants(device)) {
    CO_TRY_VOID(co_await check_sequences(device, spec, {0, 40, 3, 0}, {33, 31, 1, 65}, variant));
  }
  co_return Status{};
}
// Several splits in some rows, as real GPUs have it.
KERNEL_TEST(attention_rows_of_splits) {
  AttentionSpec spec = shape(2, 1, 16, 0, 200);
  spec.kv_type = KvType::kF32;
  spec.tiling = {128, 32, 5};
  spec.sequences = 4;
  TrialRandom random(5);
  const std::vector<float> norms = random.floats(2 * spec.head_dim, 0.15f, 0.45f);
  CO_TRY(const TrialLayer layer, trial_layer(device, spec, norms, 200, 200));
  const Variant variant = unrolled_variants(device).front();
  CO_TRY(const TrialKernels kernels,
         co_await trial_kernels(device, spec, variants(device).front()));
  const std::vector<uint32_t> lengths = {170, 1, 70};
  std::vector<AttentionOracle> oracles(lengths.size(), AttentionOracle(spec, norms));
  for (uint32_t s = 0; s < lengths.size(); ++s) {
    const std::vector<float> raw = random.floats(size_t{lengths[s]} * spec.qkv_rows(), 2.0f);
    for (uint32_t t = 0; t < lengths[s]; ++t)
      oracles[s].append(raw.data() + size_t{t} * spec.qkv_rows());
    CO_TRY_VOID(co_await trial_prefill(device, layer, kernels, raw,
                                       {{.tokens = lengths[s], .sequence = 3 - s}}));
  }
  co_return co_await check_rows(device, layer, oracles, lengths, variant);
}
// Tokens that follow each other in one sequence: one dispatch stores their K and V, another
// attends. Each is what decoding makes of it, bit for bit.
Task<Status> check_following_rows(gpu::Device& device, const AttentionSpec& spec, uint32_t begin,
                                  uint32_t count, Variant variant) {
  TrialRandom random(begin);
  const std::vector<float> norms = random.floats(2 * spec.head_dim, 0.15f, 0.45f);
  const uint32_t end = begin + count;
  const uint32_t rows = spec.qkv_rows();
  const std::vector<float> raw = random.floats(size_t{end} * rows, 2.0f);
  CO_TRY(const TrialLayer layer, trial_layer(device, spec, norms, end, end));
  CO_TRY(const gpu::Kernel decode,
         co_await trial_kernel(device, attention_decode_source(spec, variant)));
  const auto token = [&](uint32_t t) { return std::span(raw).subspan(size_t{t} * rows, rows); };
  for (uint32_t t = 0; t < begin; ++t)
    CO_TRY_VOID(co_await trial_decode(device, layer, decode, token(t), t));

  const size_t width = size_t{spec.heads} * spec.head_dim;
  const auto stride = static_cast<uint32_t>(spec.tiling.splits * width);
  const uint32_t stats_stride = 2 * spec.tiling.splits * spec.heads;
  std::vector<Step> steps(kMaxStepRows);
  for (uint32_t r = 0; r < count; ++r) steps[r] = {.position = begin + r};
  CO_TRY(const gpu::Buffer qkv,
         trial_buffer(device, std::vector<float>(raw.end() - count * rows, raw.end())));
  CO_TRY(const gpu::Buffer places, trial_buffer(device, steps));
  CO_TRY(const gpu::Buffer partial, trial_zeros(device, uint64_t{4} * count * stride));
  CO_TRY(const gpu::Buffer stats, trial_zeros(device, uint64_t{4} * count * stats_stride));
  const std::vector<gpu::Range> ranges = {qkv,     layer.norms, layer.rope, layer.k,
                                          layer.v, partial,     stats,      places};
  const auto run = [&](OwnRows own, Groups groups) -> Task<Status> {
    CO_TRY(const gpu::Kernel kernel,
           co_await trial_kernel(device, attention_rows_source(spec, variant, {}, stride, own)));
    CO_TRY_VOID(trial_dispatch(device, kernel, ranges, groups));
    co_return co_await device.sync();
  };
  CO_TRY_VOID(co_await run(OwnRows::kStore, stored_rows_groups(spec, count)));
  CO_TRY_VOID(co_await run(OwnRows::kAfterwards, attention_rows_groups(spec, count, end - 1)));
  CO_TRY(const std::vector<float> sums,
         co_await trial_read<float>(device, partial, size_t{count} * stride));
  CO_TRY(const std::vector<float> all_stats,
         co_await trial_read<float>(device, stats, size_t{count} * stats_stride));
  for (uint32_t r = 0; r < count; ++r) {
    const std::vector<float> got = merged_splits(
        spec, std::span(sums).subspan(size_t{r} * stride, stride),
        std::span(all_stats).subspan(size_t{r} * stats_stride, stats_stride), begin + r);
    CO_TRY(const std::vector<float> wanted,
           co_await trial_decode(device, layer, decode, token(begin + r), begin + r));
    KERNEL_EXPECT(got == wanted, "row ", r, " is not what decoding makes of it");
  }
  co_return Status{};
}
KERNEL_TEST(attention_following_rows) {
  AttentionSpec spec = shape(4, 2, 16, 12, 24);
  CO_TRY_VOID(co_await check_following_rows(device, spec, 9, 7, variants(device).back()));
  spec = shape(2, 1, 16, 0, 80);
  spec.v_from_k = true;
  spec.tiling = {128, 32, 5};
  co_return co_await check_following_rows(device, spec, 40, 5, unrolled_variants(device).front());
}
KERNEL_TEST(attention_sequences_window) {
  AttentionSpec spec = shape(8, 1, 256, 20, 60);
  spec.kv_type = KvType::kF32;
  CO_TRY_VOID(
      co_await check_sequences(device, spec, {37, 12, 0}, {1, 41, 33}, variants(device).front()));
  co_return Status{};
}

// Images whose tokens see each other both ways, in chunks of two sequences whose ring turns:
// shorter and longer than the window and than a workgroup's queries, side by side, at both ends.
Task<Status> check_images(gpu::Device& device, AttentionSpec spec, Variant variant) {
  struct Image {
    uint32_t position, tokens;
  };
  struct Chunk {
    uint32_t tokens;
    std::vector<Image> images;
  };
  spec.both_ways = true;
  spec.sequences = 2;
  const std::vector<Chunk> chunks[] = {{{50, {{0, 3}, {3, 41}}}, {20, {{55, 15}}}, {3, {}}},
                                       {{7, {{2, 4}}}, {1, {}}, {60, {{9, 59}}}}};
  TrialRandom random(spec.head_dim + spec.window);
  const std::vector<float> norms = random.floats(2 * spec.head_dim, 0.15f, 0.45f);
  CO_TRY(const TrialLayer layer, trial_layer(device, spec, norms, 100, 100));
  CO_TRY(const TrialKernels kernels, co_await trial_kernels(device, spec, variant));
  std::vector<AttentionOracle> oracles(2, AttentionOracle(spec, norms));
  uint32_t position[2] = {};
  for (size_t c = 0; c < 3; ++c) {
    std::vector<float> raw;
    std::vector<TokenSpan> spans;
    std::vector<uint32_t> last;
    std::vector<double> wanted;
    for (uint32_t s = 0; s < 2; ++s) {
      const Chunk& chunk = chunks[s][c];
      const std::vector<float> own = random.floats(size_t{chunk.tokens} * spec.qkv_rows(), 2.0f);
      spans.push_back({.first = static_cast<uint32_t>(last.size()),
                       .tokens = chunk.tokens,
                       .position = position[s],
                       .sequence = s});
      for (uint32_t t = 0; t < chunk.tokens; ++t)
        oracles[s].append(own.data() + size_t{t} * spec.qkv_rows());
      for (uint32_t t = 0; t < chunk.tokens; ++t) {
        uint32_t end = position[s] + t;
        for (const Image& image : chunk.images) {
          if (end >= image.position && end < image.position + image.tokens)
            end = image.position + image.tokens - 1;
        }
        last.push_back(end);
        const std::vector<double> out =
            oracles[s].attend(own.data() + size_t{t} * spec.qkv_rows(), position[s] + t, end);
        wanted.insert(wanted.end(), out.begin(), out.end());
      }
      raw.insert(raw.end(), own.begin(), own.end());
      position[s] += chunk.tokens;
    }
    CO_TRY(const std::vector<float> out,
           co_await trial_prefill(device, layer, kernels, raw, spans, last));
    const double d = largest_difference(out, wanted);
    KERNEL_EXPECT(d < tolerance(spec), "chunk ", c, " differs by ", d);
  }
  co_return Status{};
}

KERNEL_TEST(attention_both_ways) {
  AttentionSpec spec = shape(4, 2, 64, 20, 20 - 1 + 60);
  spec.kv_type = KvType::kF32;
  for (const Variant& variant : variants(device))
    CO_TRY_VOID(co_await check_images(device, spec, variant));
  AttentionSpec ten = shape(2, 1, 10, 5, 5 - 1 + 60);
  co_return co_await check_images(device, ten, variants(device).front());
}

// Many splits and tiles: a long cache, written by the host.
Task<Status> check_long(gpu::Device& device, AttentionSpec spec, std::vector<uint32_t> positions,
                        std::vector<Variant> forms = {}) {
  if (forms.empty()) forms = variants(device);
  const uint32_t n = spec.head_dim;
  const uint32_t last = *std::ranges::max_element(positions);
  TrialRandom random(last + n);
  std::vector<float> norms = random.floats(2 * n, 0.2f, 0.6f);
  const std::vector<float> raw = random.floats(spec.qkv_rows(), 2.0f);
  std::vector<float> k = random.floats(size_t{last + 1} * spec.kv_heads * n);
  std::vector<float> v = random.floats(size_t{last + 1} * spec.kv_heads * n);
  for (std::vector<float>* rows : {&k, &v}) {
    for (size_t at = 0; at < rows->size(); at += n)
      round_to_cache(std::span(*rows).subspan(at, n), spec);
  }
  for (Variant variant : forms) {
    CO_TRY(TrialLayer layer, trial_layer(device, spec, norms, 1, last + 1));
    CO_TRY(gpu::Kernel kernel,
           co_await trial_kernel(device, attention_decode_source(spec, variant)));
    for (uint32_t position : positions) {
      const size_t width = size_t{spec.kv_heads} * n;
      std::vector<uint16_t> half_k(size_t{spec.slots} * width);
      std::vector<uint16_t> half_v(half_k.size());
      AttentionOracle oracle(spec, norms);
      for (uint32_t p = 0; p < position; ++p) {
        for (size_t d = 0; d < width; ++d) {
          half_k[(p % spec.slots) * width + d] = float_to_half(k[p * width + d]);
          half_v[(p % spec.slots) * width + d] = float_to_half(v[p * width + d]);
        }
        oracle.append_rows({k.begin() + p * width, k.begin() + (p + 1) * width},
                           {v.begin() + p * width, v.begin() + (p + 1) * width});
      }
      device.write(layer.k, 0, std::as_bytes(std::span(half_k)));
      device.write(layer.v, 0, std::as_bytes(std::span(half_v)));
      oracle.append(raw.data());
      CO_TRY(const std::vector<float> out,
             co_await trial_decode(device, layer, kernel, raw, position));
      const double d = largest_difference(out, oracle.attend(raw.data(), position));
      KERNEL_EXPECT(d < tolerance(spec), "position ", position, " differs by ", d, ", subgroups ",
                    variant.subgroups);
    }
  }
  co_return Status{};
}

constexpr uint32_t kKeys = AttentionTiling{}.keys;  // of a split

KERNEL_TEST(attention_decode_long_global) {
  co_return co_await check_long(device, shape(2, 1, 64, 0, 6000),
                                {kKeys - 1, kKeys, kKeys + 1, 16 * kKeys, 5555});
}
KERNEL_TEST(attention_decode_long_unrolled) {
  co_return co_await check_long(device, shape(2, 1, 16, 0, 300), {kKeys - 1, kKeys, 2 * kKeys + 1},
                                {unrolled_variants(device).back()});
}
KERNEL_TEST(attention_decode_long_window) {
  co_return co_await check_long(device, shape(2, 2, 256, 512, 600), {511, 512, 700});
}

// Cuts beside the usual one: tiles of fewer threads than a split has keys, odd numbers of splits, a
// ring that is read across its end.
AttentionSpec cut(AttentionSpec spec, AttentionTiling tiling) {
  spec.tiling = tiling;
  return spec;
}
KERNEL_TEST(attention_decode_cut_global) {
  co_return co_await check_long(device, cut(shape(2, 1, 64, 0, 3000), {128, 256, 5}),
                                {0, 255, 256, 600, 2900}, {variants(device).front()});
}
KERNEL_TEST(attention_decode_cut_ring) {
  co_return co_await check_long(device, cut(shape(2, 2, 256, 512, 600), {128, 64, 32}),
                                {511, 700, 1100}, {variants(device).back()});
}
// As real GPUs run them.
KERNEL_TEST(attention_decode_cut_unrolled) {
  co_return co_await check_long(device, cut(shape(2, 1, 16, 100, 120), {128, 32, 32}), {98, 250},
                                {unrolled_variants(device).front()});
}

KERNEL_TEST(attention_cuts_that_fit) {
  const AttentionSpec small = shape(8, 1, 256, 512, 1100);
  const AttentionSpec large = shape(8, 1, 512, 0, 8192);
  KERNEL_EXPECT(fits(small, {128, 64, 32}) && fits(large, {256, 64, 32}),
                "cuts near the usual one");
  KERNEL_EXPECT(!fits(large, {128, 128, 16}), "128 threads for 256 pairs");
  for (const AttentionTiling& wrong : {AttentionTiling{64, 128, 16}, AttentionTiling{192, 128, 16},
                                       AttentionTiling{256, 16, 16}, AttentionTiling{256, 2048, 16},
                                       AttentionTiling{256, 128, 0}, AttentionTiling{256, 128, 33}})
    KERNEL_EXPECT(!fits(small, wrong), wrong.threads, " ", wrong.keys, " ", wrong.splits);
  KERNEL_EXPECT(!fits(shape(128, 1, 64, 0, 512), {256, 128, 32}), "too many weights to merge");
  for (const AttentionSpec& spec : {small, large}) {
    const std::vector<AttentionTiling> near = near_tilings(spec, 1099);
    KERNEL_EXPECT(near.size() > 2 && near[0] == AttentionTiling{}, near.size(), " cuts");
    for (size_t i = 1; i < near.size(); ++i)
      KERNEL_EXPECT(fits(spec, near[i]) && near[i] != near[0], "cut ", i);
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
