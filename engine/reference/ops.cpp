// The reference operations: short loops, double sums.
#include "engine/reference/ops.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/gguf/codec.h"

namespace lapidary::reference {

// The one hot loop. Its bounds are checked once, at the top, rather than per element by the
// sanitizer: under ASan the model tests would take minutes. Four partial sums let the compiler use
// vector registers.
__attribute__((no_sanitize("address", "undefined"))) double dot(std::span<const float> a,
                                                                std::span<const float> b) {
  assert(a.size() == b.size());
  const float* x = a.data();
  const float* y = b.data();
  const size_t n = a.size();
  double sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += double{x[i + j]} * double{y[i + j]};
  }
  double sum = 0;
  for (const double s : sums) sum += s;
  for (; i < n; ++i) sum += double{x[i]} * double{y[i]};
  return sum;
}

void matvec(std::span<const float> weight, std::span<const float> x, std::span<float> y) {
  assert(weight.size() == x.size() * y.size());
  for (size_t o = 0; o < y.size(); ++o) {
    y[o] = static_cast<float>(dot(weight.subspan(o * x.size(), x.size()), x));
  }
}

Status matvec(gguf::TensorType type, Bytes weight, std::span<const float> x, std::span<float> y) {
  TRY(const uint64_t row_bytes, gguf::tensor_bytes(type, x.size()));
  if (weight.size() != row_bytes * y.size()) {
    return fail(ErrorCode::kInvalidArgument, "matvec: the matrix does not hold rows x columns");
  }
  std::vector<float> row(x.size());
  const auto stride = static_cast<size_t>(row_bytes);
  for (size_t o = 0; o < y.size(); ++o) {
    TRY_VOID(gguf::decode_block_row(type, weight.subspan(o * stride, stride), row));
    y[o] = static_cast<float>(dot(row, x));
  }
  return {};
}

void rms_norm(std::span<const float> x, std::span<const float> weight, float eps,
              std::span<float> y) {
  assert(y.size() == x.size() && (weight.empty() || weight.size() == x.size()));
  const double mean = dot(x, x) / static_cast<double>(x.size());
  const double scale = 1 / std::sqrt(mean + double{eps});
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = static_cast<float>(double{x[i]} * scale * (weight.empty() ? 1.0 : double{weight[i]}));
  }
}

float gelu(float x) {
  const double z = x;
  constexpr double kSqrt2OverPi = 0.7978845608028654;
  return static_cast<float>(0.5 * z * (1 + std::tanh(kSqrt2OverPi * (z + 0.044715 * z * z * z))));
}

void rope(std::span<float> head, uint32_t position, float theta,
          std::span<const float> freq_factors) {
  const size_t half = head.size() / 2;
  assert(head.size() % 2 == 0 && (freq_factors.empty() || freq_factors.size() == half));
  for (size_t i = 0; i < half; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head.size());
    double angle = position * std::pow(double{theta}, exponent);
    if (!freq_factors.empty()) angle /= double{freq_factors[i]};
    const double c = std::cos(angle);
    const double s = std::sin(angle);
    const double a = head[i];
    const double b = head[i + half];
    head[i] = static_cast<float>(a * c - b * s);
    head[i + half] = static_cast<float>(b * c + a * s);
  }
}

void softcap(std::span<float> logits, float cap) {
  if (cap == 0) return;
  for (float& x : logits) x = static_cast<float>(double{cap} * std::tanh(double{x} / double{cap}));
}

void softmax(std::span<float> x) {
  float largest = -std::numeric_limits<float>::infinity();
  for (const float v : x) largest = std::max(largest, v);
  std::vector<double> e(x.size());
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += e[i] = std::exp(double{x[i]} - double{largest});
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(e[i] / sum);
}

void attention(const AttentionShape& shape, std::span<const float> q, std::span<const float> k,
               std::span<const float> v, uint32_t position, std::span<float> out) {
  attention(shape, q, k, v, position, position, out);
}

void attention(const AttentionShape& shape, std::span<const float> q, std::span<const float> k,
               std::span<const float> v, uint32_t position, uint32_t last_key,
               std::span<float> out) {
  const size_t dim = shape.head_dim;
  const size_t row = shape.kv_heads * dim;
  assert(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && last_key >= position);
  assert(q.size() == shape.heads * dim && out.size() == q.size());
  assert(k.size() >= (size_t{last_key} + 1) * row && v.size() >= (size_t{last_key} + 1) * row);
  const size_t group = shape.heads / shape.kv_heads;
  const uint32_t first =
      shape.window != 0 && position + 1 > shape.window ? position + 1 - shape.window : 0;
  std::vector<double> p(size_t{last_key} - first + 1);
  std::vector<double> sums(dim);
  for (size_t h = 0; h < shape.heads; ++h) {
    const size_t kv = (h / group) * dim;
    double largest = -std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] = dot(q.subspan(h * dim, dim), k.subspan((first + i) * row + kv, dim));
      largest = std::max(largest, p[i]);
    }
    double total = 0;
    for (double& x : p) total += x = std::exp(x - largest);
    std::fill(sums.begin(), sums.end(), 0.0);
    for (size_t i = 0; i < p.size(); ++i) {
      const std::span<const float> value = v.subspan((first + i) * row + kv, dim);
      for (size_t d = 0; d < dim; ++d) sums[d] += p[i] * double{value[d]};
    }
    for (size_t d = 0; d < dim; ++d) out[h * dim + d] = static_cast<float>(sums[d] / total);
  }
}

std::vector<Candidate> top_k(std::span<const float> values, uint32_t k) {
  std::vector<uint32_t> ids(values.size());
  std::iota(ids.begin(), ids.end(), 0u);
  const size_t count = std::min<size_t>(k, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count), ids.end(),
                    [&](uint32_t a, uint32_t b) {
                      return values[a] != values[b] ? values[a] > values[b] : a < b;
                    });
  std::vector<Candidate> best(count);
  for (size_t i = 0; i < count; ++i) best[i] = {ids[i], values[ids[i]]};
  return best;
}

void round_to_half(std::span<float> x) {
  for (float& v : x) v = half_to_float(float_to_half(v));
}

}  // namespace lapidary::reference
