// Attention kernels against a plain double-precision model of gemma4.md §4.3 and §4.5.
#include <algorithm>
#include <cmath>

#include "engine/base/bytes.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/rope.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/kernel_test.h"

namespace lapidary::kernels {
namespace {

std::vector<Variant> variants(const gpu::Device& device) {
  std::vector<Variant> list = {{}};
  if (device.has(gpu::kFeatureSubgroups)) list.push_back({.subgroups = true});
  return list;
}

constexpr double kTheta = 10000.0;

float cached(float x, const AttentionSpec& spec) {
  return spec.kv_f32 ? x : half_to_float(float_to_half(x));
}

// One layer's attention in double; the cache is exact up to its rounding.
class Oracle {
 public:
  Oracle(const AttentionSpec& spec, const std::vector<float>& norms)
      : spec_(spec), norms_(&norms) {}

  std::vector<double> head(const float* x, const float* weight, bool turn,
                           uint32_t position) const {
    const uint32_t n = spec_.head_dim;
    double sum = 0;
    for (uint32_t d = 0; d < n; ++d) sum += double{x[d]} * x[d];
    const double scale = 1.0 / std::sqrt(sum / n + spec_.eps);
    std::vector<double> out(n);
    for (uint32_t d = 0; d < n; ++d) out[d] = x[d] * scale * (weight == nullptr ? 1.0 : weight[d]);
    if (!turn) return out;
    for (uint32_t i = 0; i < spec_.rotated_pairs; ++i) {
      const double angle = position * std::pow(kTheta, -2.0 * i / n);
      const double a = out[i];
      const double b = out[i + n / 2];
      out[i] = a * std::cos(angle) - b * std::sin(angle);
      out[i + n / 2] = b * std::cos(angle) + a * std::sin(angle);
    }
    return out;
  }

  // Appends the K and V of the next position from a token's raw projections.
  void append(const float* qkv) {
    const uint32_t n = spec_.head_dim;
    const uint32_t position = static_cast<uint32_t>(k_.size());
    std::vector<float> k;
    std::vector<float> v;
    for (uint32_t g = 0; g < spec_.kv_heads; ++g) {
      const float* raw_k = qkv + (spec_.heads + g) * n;
      const float* raw_v = spec_.v_from_k ? raw_k : raw_k + spec_.kv_heads * n;
      for (double x : head(raw_k, norms_->data() + n, true, position)) {
        k.push_back(cached(static_cast<float>(x), spec_));
      }
      for (double x : head(raw_v, nullptr, false, position)) {
        v.push_back(cached(static_cast<float>(x), spec_));
      }
    }
    k_.push_back(std::move(k));
    v_.push_back(std::move(v));
  }
  void append_rows(std::vector<float> k, std::vector<float> v) {
    k_.push_back(std::move(k));
    v_.push_back(std::move(v));
  }
  const std::vector<float>& k(uint32_t position) const { return k_[position]; }
  const std::vector<float>& v(uint32_t position) const { return v_[position]; }

  // out [heads][head_dim] of the token with raw projections qkv at `position`.
  std::vector<double> attend(const float* qkv, uint32_t position) const {
    const uint32_t n = spec_.head_dim;
    const uint32_t begin =
        spec_.window != 0 && position + 1 > spec_.window ? position + 1 - spec_.window : 0;
    std::vector<double> out(spec_.heads * n);
    for (uint32_t h = 0; h < spec_.heads; ++h) {
      const uint32_t at = h / (spec_.heads / spec_.kv_heads) * n;
      const std::vector<double> q = head(qkv + h * n, norms_->data(), true, position);
      std::vector<double> scores;
      double top = -1e300;
      for (uint32_t p = begin; p <= position; ++p) {
        double score = 0;
        for (uint32_t d = 0; d < n; ++d) score += q[d] * k_[p][at + d];
        scores.push_back(score);
        top = std::max(top, score);
      }
      double sum = 0;
      for (double& s : scores) sum += s = std::exp(s - top);
      for (uint32_t p = begin; p <= position; ++p) {
        for (uint32_t d = 0; d < n; ++d) out[h * n + d] += scores[p - begin] / sum * v_[p][at + d];
      }
    }
    return out;
  }

 private:
  AttentionSpec spec_;
  const std::vector<float>* norms_;
  std::vector<std::vector<float>> k_;
  std::vector<std::vector<float>> v_;
};

// A layer's buffers on the GPU and its kernels.
struct Layer {
  AttentionSpec spec;
  gpu::Buffer qkv, norms, rope, k, v, partial, stats, out, step;
};

Result<Layer> make_layer(gpu::Device& device, const AttentionSpec& spec,
                         const std::vector<float>& norms, uint32_t tokens, uint32_t context) {
  TRY_VOID(check_attention(spec));
  Layer layer{.spec = spec};
  TRY(layer.qkv, trial_zeros(device, uint64_t{4} * tokens * spec.qkv_rows()));
  TRY(layer.norms, trial_buffer(device, norms));
  TRY(layer.rope,
      trial_buffer(device, rope_table(spec.head_dim, spec.rotated_pairs, kTheta, {}, context)));
  TRY(layer.k, trial_zeros(device, kv_cache_bytes(spec)));
  TRY(layer.v, trial_zeros(device, kv_cache_bytes(spec)));
  const uint64_t heads = uint64_t{spec.max_splits} * spec.heads;
  TRY(layer.partial, trial_zeros(device, 4 * heads * spec.head_dim));
  TRY(layer.stats, trial_zeros(device, 8 * heads));
  TRY(layer.out, trial_zeros(device, uint64_t{4} * tokens * spec.heads * spec.head_dim));
  TRY(layer.step, trial_zeros(device, sizeof(Step)));
  return layer;
}

void write(gpu::Device& device, const gpu::Buffer& buffer, std::span<const float> data) {
  device.write(buffer, 0, std::as_bytes(data));
}
void write_step(gpu::Device& device, const Layer& layer, uint32_t position, uint32_t tokens) {
  const Step step{.position = position, .tokens = tokens};
  device.write(layer.step, 0, std::as_bytes(std::span(&step, 1)));
}

Task<Status> run_post(gpu::Device& device, const Layer& l, Variant variant, uint32_t tokens) {
  std::vector<gpu::Range> ranges = {l.qkv, l.norms, l.rope};
  if (!l.spec.shares_kv) ranges.insert(ranges.end(), {l.k, l.v});
  ranges.push_back(l.step);
  co_return co_await trial_run(device, qkv_post_source(l.spec, variant), std::move(ranges),
                               qkv_post_groups(l.spec, tokens));
}
Task<Result<std::vector<float>>> run_prefill(gpu::Device& device, const Layer& l, Variant variant,
                                             uint32_t tokens) {
  CO_TRY_VOID(co_await trial_run(device, attention_prefill_source(l.spec, variant),
                                 {l.qkv, l.k, l.v, l.out, l.step},
                                 attention_prefill_groups(l.spec, tokens)));
  co_return co_await trial_read<float>(device, l.out, tokens * l.spec.heads * l.spec.head_dim);
}

// Decode at `position`, its splits merged on the CPU. Surplus workgroups are dispatched on purpose.
Task<Result<std::vector<float>>> run_decode(gpu::Device& device, const Layer& l,
                                            const gpu::Kernel& kernel, uint32_t position) {
  const AttentionSpec& spec = l.spec;
  CO_TRY(gpu::Bindings bound, device.create_bindings(kernel, {l.qkv, l.norms, l.rope, l.k, l.v,
                                                              l.partial, l.stats, l.step}));
  write_step(device, l, position, 1);
  gpu::CommandList list;
  list.begin_pass();
  list.dispatch(kernel, bound, spec.heads, spec.max_splits);
  list.end_pass();
  device.submit(list);
  const uint32_t splits = attention_decode_groups(spec, position).y;
  const uint32_t n = spec.head_dim;
  CO_TRY(const std::vector<float> partial,
         co_await trial_read<float>(device, l.partial, size_t{splits} * spec.heads * n));
  CO_TRY(const std::vector<float> stats,
         co_await trial_read<float>(device, l.stats, size_t{splits} * spec.heads * 2));
  std::vector<float> out(size_t{spec.heads} * n);
  for (uint32_t h = 0; h < spec.heads; ++h) {
    double top = -1e30;
    for (uint32_t s = 0; s < splits; ++s) {
      top = std::max(top, double{stats[2 * (s * spec.heads + h)]});
    }
    double sum = 0;
    std::vector<double> row(n);
    for (uint32_t s = 0; s < splits; ++s) {
      const size_t at = s * spec.heads + h;
      const double weight = std::exp(stats[2 * at] - top);
      sum += weight * stats[2 * at + 1];
      for (uint32_t d = 0; d < n; ++d) row[d] += weight * partial[at * n + d];
    }
    for (uint32_t d = 0; d < n; ++d) out[h * n + d] = static_cast<float>(row[d] / sum);
  }
  co_return out;
}

// The largest difference; NaN counts as infinite.
double difference(std::span<const float> got, std::span<const double> wanted) {
  double most = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double d = std::abs(got[i] - wanted[i]);
    most = d <= most ? most : std::isnan(d) ? 1e300 : d;
  }
  return most;
}

// An element of V between 1 and 2 that lies within float error of the middle of two halves may
// round either way: one unit in the last place of a half, where its weight is near 1.
double tolerance(const AttentionSpec& spec) { return spec.kv_f32 ? 1e-5 : 1e-3; }

// Prefill in two chunks, then decode token by token, against the oracle.
Task<Status> check_layer(gpu::Device& device, AttentionSpec spec, uint32_t chunk, uint32_t second,
                         uint32_t decoded) {
  const uint32_t n = spec.head_dim;
  const uint32_t total = chunk + second + decoded;
  TrialRandom random(n * 131 + spec.heads * 17 + spec.window);
  std::vector<float> norms = random.floats(2 * n, 0.15f, 0.45f);
  const uint32_t rows = spec.qkv_rows();
  const std::vector<float> raw = random.floats(size_t{total} * rows, 2.0f);
  Oracle oracle(spec, norms);
  std::vector<std::vector<double>> wanted;
  for (uint32_t t = 0; t < total; ++t) {
    oracle.append(raw.data() + size_t{t} * rows);
    wanted.push_back(oracle.attend(raw.data() + size_t{t} * rows, t));
  }
  for (Variant variant : variants(device)) {
    const auto where = [&](uint32_t t, double d) {
      return cat("token ", t, " differs by ", d, ", subgroups ", variant.subgroups);
    };
    CO_TRY(Layer layer, make_layer(device, spec, norms, std::max(chunk, second), total));
    uint32_t position = 0;
    for (uint32_t tokens : {chunk, second}) {
      if (tokens == 0) continue;
      write(device, layer.qkv, std::span(raw).subspan(position * rows, tokens * rows));
      write_step(device, layer, position, tokens);
      CO_TRY_VOID(co_await run_post(device, layer, variant, tokens));
      CO_TRY(const std::vector<float> out, co_await run_prefill(device, layer, variant, tokens));
      for (uint32_t t = 0; t < tokens; ++t) {
        const size_t size = wanted[0].size();
        const double d = difference(std::span(out).subspan(t * size, size), wanted[position + t]);
        KERNEL_EXPECT(d < tolerance(spec), "prefill ", where(position + t, d));
      }
      position += tokens;
    }
    KernelSource source = attention_decode_source(spec, variant);
    CO_TRY(gpu::Kernel kernel,
           co_await device.create_kernel(source.wgsl, source.layout, source.label));
    for (; position < total; ++position) {
      write(device, layer.qkv, std::span(raw).subspan(position * rows, rows));
      CO_TRY(const std::vector<float> out, co_await run_decode(device, layer, kernel, position));
      const double d = difference(out, wanted[position]);
      KERNEL_EXPECT(d < tolerance(spec), "decode ", where(position, d));
    }
    // A layer that shares this cache sees the last token as its owner left it.
    AttentionSpec sharing = spec;
    sharing.shares_kv = true;
    layer.spec = sharing;
    source = attention_decode_source(sharing, variant);
    CO_TRY(gpu::Kernel reader,
           co_await device.create_kernel(source.wgsl, source.layout, source.label));
    CO_TRY(const std::vector<float> out, co_await run_decode(device, layer, reader, total - 1));
    const double d = difference(out, wanted[total - 1]);
    KERNEL_EXPECT(d < tolerance(spec), "shared ", where(total - 1, d));
    write(device, layer.qkv, std::span(raw).subspan((total - 1) * rows, sharing.qkv_rows()));
    write_step(device, layer, total - 1, 1);
    CO_TRY_VOID(co_await run_post(device, layer, variant, 1));
    CO_TRY(const std::vector<float> one, co_await run_prefill(device, layer, variant, 1));
    const double e = difference(one, wanted[total - 1]);
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
  co_return co_await check_layer(device, shape(4, 2, 64, 0, 90), 70, 13, 4);
}
KERNEL_TEST(attention_head_64_global_f32) {
  AttentionSpec spec = shape(4, 2, 64, 0, 90);
  spec.kv_f32 = true;
  co_return co_await check_layer(device, spec, 70, 13, 4);
}
KERNEL_TEST(attention_head_128_window) {
  co_return co_await check_layer(device, shape(2, 1, 128, 24, 24 - 1 + 40), 40, 37, 6);
}
KERNEL_TEST(attention_head_256_window_f32) {
  AttentionSpec spec = shape(8, 1, 256, 20, 60);
  spec.kv_f32 = true;
  co_return co_await check_layer(device, spec, 33, 41, 3);
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
  spec.kv_f32 = true;
  co_return co_await check_layer(device, spec, 20, 0, 2);
}
KERNEL_TEST(attention_odd_heads) {
  AttentionSpec tiny = shape(3, 3, 2, 0, 9);
  CO_TRY_VOID(co_await check_layer(device, tiny, 5, 1, 3));
  AttentionSpec ten = shape(6, 2, 10, 4, 12);
  ten.rotated_pairs = 3;
  ten.kv_f32 = true;
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
  spec.kv_f32 = true;
  co_return co_await check_layer(device, spec, 1, 0, 24);
}

// Many splits and tiles: a long cache, written by the host.
Task<Status> check_long(gpu::Device& device, AttentionSpec spec, std::vector<uint32_t> positions) {
  const uint32_t n = spec.head_dim;
  const uint32_t last = *std::ranges::max_element(positions);
  TrialRandom random(last + n);
  std::vector<float> norms = random.floats(2 * n, 0.2f, 0.6f);
  const std::vector<float> raw = random.floats(spec.qkv_rows(), 2.0f);
  std::vector<float> k = random.floats(size_t{last + 1} * spec.kv_heads * n);
  std::vector<float> v = random.floats(size_t{last + 1} * spec.kv_heads * n);
  for (std::vector<float>* rows : {&k, &v}) {
    for (float& x : *rows) x = cached(x, spec);
  }
  for (Variant variant : variants(device)) {
    CO_TRY(Layer layer, make_layer(device, spec, norms, 1, last + 1));
    KernelSource source = attention_decode_source(spec, variant);
    CO_TRY(gpu::Kernel kernel,
           co_await device.create_kernel(source.wgsl, source.layout, source.label));
    write(device, layer.qkv, raw);
    for (uint32_t position : positions) {
      const size_t width = size_t{spec.kv_heads} * n;
      std::vector<uint16_t> half_k(size_t{spec.slots} * width);
      std::vector<uint16_t> half_v(half_k.size());
      Oracle oracle(spec, norms);
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
      CO_TRY(const std::vector<float> out, co_await run_decode(device, layer, kernel, position));
      const double d = difference(out, oracle.attend(raw.data(), position));
      KERNEL_EXPECT(d < tolerance(spec), "position ", position, " differs by ", d, ", subgroups ",
                    variant.subgroups);
    }
  }
  co_return Status{};
}

KERNEL_TEST(attention_decode_long_global) {
  co_return co_await check_long(
      device, shape(2, 1, 64, 0, 6000),
      {kKeysPerSplit - 1, kKeysPerSplit, kKeysPerSplit + 1, 16 * kKeysPerSplit, 5555});
}
KERNEL_TEST(attention_decode_long_window) {
  co_return co_await check_long(device, shape(2, 2, 256, 512, 600), {511, 512, 700});
}

}  // namespace
}  // namespace lapidary::kernels
