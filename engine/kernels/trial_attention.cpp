#include "engine/kernels/trial_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/base/bytes.h"
#include "engine/kernels/rope.h"

namespace lapidary::kernels {
namespace {

constexpr double kTheta = 10000.0;

void write_step(gpu::Device& device, const TrialLayer& layer, const Step& step) {
  device.write(layer.step, 0, std::as_bytes(std::span(&step, 1)));
}

}  // namespace

void round_to_cache(std::span<float> row, const AttentionSpec& spec) {
  switch (spec.kv_type) {
    case KvType::kF32:
      return;
    case KvType::kF16:
      for (float& x : row) x = half_to_float(float_to_half(x));
      return;
    case KvType::kQ8_0:
      break;
  }
  for (size_t begin = 0; begin < row.size(); begin += 32) {
    const std::span<float> block = row.subspan(begin, std::min<size_t>(32, row.size() - begin));
    float top = 0;
    for (const float x : block) top = std::max(top, std::abs(x));
    const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(top) + 0xffff) & 0xffff0000u);
    for (float& x : block) {
      const float part = scale > 0 ? x / scale : 0;
      x = std::floor(0.5f + 127.0f * part) / 127.0f * scale;
    }
  }
}

std::vector<double> AttentionOracle::head(const float* x, const float* weight, bool turns,
                                          uint32_t position) const {
  const uint32_t n = spec_.head_dim;
  double sum = 0;
  for (uint32_t d = 0; d < n; ++d) sum += double{x[d]} * x[d];
  const double scale = 1.0 / std::sqrt(sum / n + spec_.eps);
  std::vector<double> out(n);
  for (uint32_t d = 0; d < n; ++d) out[d] = x[d] * scale * (weight == nullptr ? 1.0 : weight[d]);
  if (!turns) return out;
  for (uint32_t i = 0; i < spec_.rotated_pairs; ++i) {
    const double angle = position * std::pow(kTheta, -2.0 * i / n);
    const double a = out[i];
    const double b = out[i + n / 2];
    out[i] = a * std::cos(angle) - b * std::sin(angle);
    out[i + n / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
  return out;
}

void AttentionOracle::append(const float* qkv) {
  const uint32_t n = spec_.head_dim;
  const auto position = static_cast<uint32_t>(k_.size());
  std::vector<float> k;
  std::vector<float> v;
  for (uint32_t g = 0; g < spec_.kv_heads; ++g) {
    const float* raw_k = qkv + size_t{spec_.heads + g} * n;
    const float* raw_v = spec_.v_from_k ? raw_k : raw_k + size_t{spec_.kv_heads} * n;
    for (const double x : head(raw_k, norms_->data() + n, true, position))
      k.push_back(static_cast<float>(x));
    for (const double x : head(raw_v, nullptr, false, position)) v.push_back(static_cast<float>(x));
    round_to_cache(std::span(k).last(n), spec_);
    round_to_cache(std::span(v).last(n), spec_);
  }
  append_rows(std::move(k), std::move(v));
}

void AttentionOracle::append_rows(std::vector<float> k, std::vector<float> v) {
  k_.push_back(std::move(k));
  v_.push_back(std::move(v));
}

std::vector<double> AttentionOracle::attend(const float* qkv, uint32_t position,
                                            uint32_t last) const {
  const uint32_t n = spec_.head_dim;
  const uint32_t begin =
      spec_.window != 0 && position + 1 > spec_.window ? position + 1 - spec_.window : 0;
  std::vector<double> out(size_t{spec_.heads} * n);
  for (uint32_t h = 0; h < spec_.heads; ++h) {
    const uint32_t at = h / (spec_.heads / spec_.kv_heads) * n;
    const std::vector<double> q = head(qkv + size_t{h} * n, norms_->data(), true, position);
    std::vector<double> scores;
    for (uint32_t p = begin; p <= last; ++p) {
      double score = 0;
      for (uint32_t d = 0; d < n; ++d) score += q[d] * k_[p][at + d];
      scores.push_back(score);
    }
    const double top = *std::ranges::max_element(scores);
    double sum = 0;
    for (double& s : scores) {
      s = std::exp(s - top);
      sum += s;
    }
    for (uint32_t p = begin; p <= last; ++p) {
      for (uint32_t d = 0; d < n; ++d) {
        out[size_t{h} * n + d] += scores[p - begin] / sum * v_[p][at + d];
      }
    }
  }
  return out;
}

Result<TrialLayer> trial_layer(gpu::Device& device, const AttentionSpec& spec,
                               const std::vector<float>& norms, uint32_t tokens, uint32_t context) {
  TRY_VOID(check_attention(spec));
  TrialLayer layer{.spec = spec};
  const uint64_t row = uint64_t{spec.heads} * spec.head_dim;
  TRY(layer.qkv, trial_zeros(device, uint64_t{4} * tokens * spec.qkv_rows()));
  TRY(layer.norms, trial_buffer(device, norms));
  TRY(layer.rope,
      trial_buffer(device, rope_table(spec.head_dim, spec.rotated_pairs, kTheta, {}, context)));
  TRY(layer.k, trial_zeros(device, kv_cache_bytes(spec)));
  TRY(layer.v, trial_zeros(device, kv_cache_bytes(spec)));
  TRY(layer.partial, trial_zeros(device, 4 * spec.tiling.splits * row));
  TRY(layer.stats, trial_zeros(device, uint64_t{8} * spec.tiling.splits * spec.heads));
  TRY(layer.out, trial_zeros(device, 4 * tokens * row));
  TRY(layer.spans, trial_zeros(device, kMaxSequences * sizeof(TokenSpan)));
  TRY(layer.last, trial_zeros(device, uint64_t{4} * tokens));
  TRY(layer.step, trial_zeros(device, sizeof(Step)));
  return layer;
}

Task<Result<TrialKernels>> trial_kernels(gpu::Device& device, AttentionSpec spec, Variant variant) {
  TrialKernels kernels;
  CO_TRY(kernels.post, co_await trial_kernel(device, qkv_post_source(spec, variant)));
  CO_TRY(kernels.prefill, co_await trial_kernel(device, attention_prefill_source(spec, variant)));
  CO_TRY(kernels.decode, co_await trial_kernel(device, attention_decode_source(spec, variant)));
  co_return std::move(kernels);
}

Task<Result<std::vector<float>>> trial_prefill(gpu::Device& device, const TrialLayer& layer,
                                               const TrialKernels& kernels,
                                               std::span<const float> qkv,
                                               std::vector<TokenSpan> spans,
                                               std::span<const uint32_t> last) {
  const AttentionSpec& spec = layer.spec;
  const auto tokens = static_cast<uint32_t>(qkv.size() / spec.qkv_rows());
  const auto count = static_cast<uint32_t>(spans.size());
  device.write(layer.qkv, 0, std::as_bytes(qkv));
  device.write(layer.spans, 0, std::as_bytes(std::span(spans)));
  write_step(device, layer, {.tokens = tokens, .spans = count});
  std::vector<gpu::Range> ranges = {layer.qkv, layer.norms, layer.rope};
  if (!spec.shares_kv) ranges.insert(ranges.end(), {layer.k, layer.v});
  ranges.insert(ranges.end(), {layer.spans, layer.step});
  CO_TRY(const gpu::Bindings post, device.create_bindings(kernels.post, ranges));
  std::vector<gpu::Range> seen = {layer.qkv, layer.k, layer.v, layer.out, layer.spans};
  if (spec.both_ways) {
    device.write(layer.last, 0, std::as_bytes(last));
    seen.emplace_back(layer.last);
  }
  seen.emplace_back(layer.step);
  CO_TRY(const gpu::Bindings prefill, device.create_bindings(kernels.prefill, seen));
  const Groups before = qkv_post_groups(spec, tokens);
  const Groups after = attention_prefill_groups(spec, tokens, count);
  gpu::CommandList list;
  list.begin_pass();
  list.dispatch(kernels.post, post, before.x, before.y);
  list.dispatch(kernels.prefill, prefill, after.x, after.y);
  list.end_pass();
  device.submit(list);
  co_return co_await trial_read<float>(device, layer.out,
                                       size_t{tokens} * spec.heads * spec.head_dim);
}

Task<Result<std::vector<float>>> trial_prefill(gpu::Device& device, const TrialLayer& layer,
                                               const TrialKernels& kernels,
                                               std::span<const float> qkv, uint32_t position) {
  const auto tokens = static_cast<uint32_t>(qkv.size() / layer.spec.qkv_rows());
  return trial_prefill(device, layer, kernels, qkv, {{.tokens = tokens, .position = position}});
}

std::vector<float> merged_splits(const AttentionSpec& spec, std::span<const float> partial,
                                 std::span<const float> stats, uint32_t position) {
  const uint32_t splits = attention_decode_groups(spec, position).y;
  const uint32_t n = spec.head_dim;
  std::vector<float> out(size_t{spec.heads} * n);
  for (uint32_t h = 0; h < spec.heads; ++h) {
    double top = -1e30;
    for (uint32_t s = 0; s < splits; ++s)
      top = std::max(top, double{stats[2 * (size_t{s} * spec.heads + h)]});
    double sum = 0;
    std::vector<double> row(n);
    for (uint32_t s = 0; s < splits; ++s) {
      const size_t at = size_t{s} * spec.heads + h;
      const double weight = std::exp(stats[2 * at] - top);
      sum += weight * stats[2 * at + 1];
      for (uint32_t d = 0; d < n; ++d) row[d] += weight * partial[at * n + d];
    }
    for (uint32_t d = 0; d < n; ++d) out[size_t{h} * n + d] = static_cast<float>(row[d] / sum);
  }
  return out;
}

Task<Result<std::vector<float>>> trial_decode(gpu::Device& device, const TrialLayer& layer,
                                              const gpu::Kernel& kernel, std::span<const float> qkv,
                                              uint32_t position, uint32_t sequence,
                                              std::vector<gpu::Range> more) {
  const AttentionSpec& spec = layer.spec;
  std::vector<gpu::Range> ranges = {layer.qkv, layer.norms,   layer.rope, layer.k,
                                    layer.v,   layer.partial, layer.stats};
  ranges.insert(ranges.end(), more.begin(), more.end());
  ranges.emplace_back(layer.step);
  CO_TRY(const gpu::Bindings bound, device.create_bindings(kernel, ranges));
  device.write(layer.qkv, 0, std::as_bytes(qkv));
  write_step(device, layer, {.position = position, .sequence = sequence});
  gpu::CommandList list;
  list.begin_pass();
  list.dispatch(kernel, bound, spec.heads, spec.tiling.splits);
  list.end_pass();
  device.submit(list);
  const uint32_t splits = attention_decode_groups(spec, position).y;
  const uint32_t n = spec.head_dim;
  CO_TRY(const std::vector<float> partial,
         co_await trial_read<float>(device, layer.partial, size_t{splits} * spec.heads * n));
  CO_TRY(const std::vector<float> stats,
         co_await trial_read<float>(device, layer.stats, size_t{splits} * spec.heads * 2));
  co_return merged_splits(spec, partial, stats, position);
}

double largest_difference(std::span<const float> got, std::span<const double> wanted) {
  double most = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double d = std::abs(got[i] - wanted[i]);
    if (std::isnan(d)) return std::numeric_limits<double>::infinity();
    most = std::max(most, d);
  }
  return most;
}

}  // namespace lapidary::kernels
