// The tape's operations: each a loop forward and the closure that goes back.
#include "engine/reference/tape.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

namespace lapidary::reference {
namespace {

// The two hot loops. As in ops.cpp, bounds are checked once, at the top, rather than per element by
// the sanitizer.
__attribute__((no_sanitize("address", "undefined"))) double dot(std::span<const double> a,
                                                                std::span<const double> b) {
  assert(a.size() == b.size());
  const double* x = a.data();
  const double* y = b.data();
  const size_t n = a.size();
  double sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += x[i + j] * y[i + j];
  }
  double sum = 0;
  for (const double s : sums) sum += s;
  for (; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// y += factor x
__attribute__((no_sanitize("address", "undefined"))) void accumulate(std::span<double> y,
                                                                     double factor,
                                                                     std::span<const double> x) {
  assert(x.size() == y.size());
  const double* from = x.data();
  double* to = y.data();
  for (size_t i = 0; i < y.size(); ++i) to[i] += factor * from[i];
}

std::span<const double> widen(std::span<const float> x, std::vector<double>& out) {
  out.assign(x.begin(), x.end());
  return out;
}

// p = exp(x - max) / sum; returns log(sum exp(x)).
double softmax(std::span<double> x) {
  const double largest = *std::ranges::max_element(x);
  double sum = 0;
  for (double& v : x) sum += v = std::exp(v - largest);
  for (double& v : x) v /= sum;
  return largest + std::log(sum);
}

}  // namespace

Variable::Variable(size_t row_count, size_t row_width)
    : rows(row_count),
      width(row_width),
      value(row_count * row_width),
      gradient(row_count * row_width) {}

Variable* Tape::leaf(size_t rows, size_t width) { return &variables_.emplace_back(rows, width); }

Variable* Tape::add(Variable* x, Variable* z, double factor) {
  assert(x->rows == z->rows && x->width == z->width);
  Variable* y = leaf(x->rows, x->width);
  y->value = x->value;
  accumulate(y->value, factor, z->value);
  steps_.emplace_back([=] {
    accumulate(x->gradient, 1, y->gradient);
    accumulate(z->gradient, factor, y->gradient);
  });
  return y;
}

Variable* Tape::scale(Variable* x, double factor) {
  return map(x, [=](double v) { return factor * v; }, [=](double, double) { return factor; });
}

Variable* Tape::multiply(Variable* x, Variable* z) {
  assert(x->rows == z->rows && x->width == z->width);
  Variable* y = leaf(x->rows, x->width);
  for (size_t i = 0; i < y->value.size(); ++i) y->value[i] = x->value[i] * z->value[i];
  steps_.emplace_back([=] {
    for (size_t i = 0; i < y->value.size(); ++i) {
      x->gradient[i] += y->gradient[i] * z->value[i];
      z->gradient[i] += y->gradient[i] * x->value[i];
    }
  });
  return y;
}

template <typename F, typename D>
Variable* Tape::map(Variable* x, F f, D derivative) {
  Variable* y = leaf(x->rows, x->width);
  for (size_t i = 0; i < y->value.size(); ++i) y->value[i] = f(x->value[i]);
  steps_.emplace_back([=] {
    for (size_t i = 0; i < y->value.size(); ++i) {
      x->gradient[i] += y->gradient[i] * derivative(x->value[i], y->value[i]);
    }
  });
  return y;
}

Variable* Tape::gelu(Variable* x) {
  constexpr double kC = 0.7978845608028654;
  constexpr double kA = 0.044715;
  const auto tanh_of = [](double v) { return std::tanh(kC * (v + kA * v * v * v)); };
  return map(
      x, [=](double v) { return 0.5 * v * (1 + tanh_of(v)); },
      [=](double v, double) {
        const double t = tanh_of(v);
        return 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * kC * (1 + 3 * kA * v * v);
      });
}

Variable* Tape::softcap(Variable* x, double cap) {
  if (cap == 0) return x;
  return map(
      x, [=](double v) { return cap * std::tanh(v / cap); },
      [=](double, double y) { return 1 - (y / cap) * (y / cap); });
}

Variable* Tape::project(Variable* x, const Matrix& weight) {
  assert(weight.width() == x->width);
  Variable* y = leaf(x->rows, weight.rows());
  std::vector<float> scratch;
  std::vector<double> wide;
  for (size_t o = 0; o < y->width; ++o) {
    const std::span<const double> w = widen(weight.row(o, scratch), wide);
    for (size_t t = 0; t < x->rows; ++t) y->row(t)[o] = dot(w, x->row(t));
  }
  steps_.emplace_back([x, y, &weight] {
    std::vector<float> narrow;
    std::vector<double> row;
    for (size_t o = 0; o < y->width; ++o) {
      const std::span<const double> w = widen(weight.row(o, narrow), row);
      for (size_t t = 0; t < x->rows; ++t) accumulate(x->gradient_row(t), y->gradient_row(t)[o], w);
    }
  });
  return y;
}

Variable* Tape::project(Variable* x, Variable* weight) {
  assert(weight->width == x->width);
  Variable* y = leaf(x->rows, weight->rows);
  for (size_t t = 0; t < x->rows; ++t) {
    for (size_t o = 0; o < y->width; ++o) y->row(t)[o] = dot(weight->row(o), x->row(t));
  }
  steps_.emplace_back([=] {
    for (size_t t = 0; t < x->rows; ++t) {
      for (size_t o = 0; o < y->width; ++o) {
        const double dy = y->gradient_row(t)[o];
        accumulate(x->gradient_row(t), dy, weight->row(o));
        accumulate(weight->gradient_row(o), dy, x->row(t));
      }
    }
  });
  return y;
}

Variable* Tape::rms_norm(Variable* x, std::span<const float> weight, size_t group, double eps) {
  assert(x->width % group == 0 && (weight.empty() || weight.size() == group));
  const auto count = static_cast<double>(group);
  const std::vector<double> w = weight.empty() ? std::vector<double>(group, 1)
                                               : std::vector<double>(weight.begin(), weight.end());
  const auto reciprocal = [=](std::span<const double> run) {
    return 1 / std::sqrt(dot(run, run) / count + eps);
  };
  Variable* y = leaf(x->rows, x->width);
  for (size_t at = 0; at < x->value.size(); at += group) {
    const double r = reciprocal(std::span(x->value).subspan(at, group));
    for (size_t i = 0; i < group; ++i) y->value[at + i] = w[i] * r * x->value[at + i];
  }
  steps_.emplace_back([=] {
    std::vector<double> g(group);
    for (size_t at = 0; at < x->value.size(); at += group) {
      const std::span<const double> run = std::span(x->value).subspan(at, group);
      const double r = reciprocal(run);
      for (size_t i = 0; i < group; ++i) g[i] = w[i] * y->gradient[at + i];
      const std::span<double> dx = std::span(x->gradient).subspan(at, group);
      accumulate(dx, r, g);
      accumulate(dx, -r * r * r / count * dot(g, run), run);
    }
  });
  return y;
}

Variable* Tape::rope(Variable* x, size_t head_dim, double theta,
                     std::span<const float> freq_factors) {
  const size_t half = head_dim / 2;
  assert(head_dim % 2 == 0 && x->width % head_dim == 0);
  assert(freq_factors.empty() || freq_factors.size() == half);
  std::vector<double> frequency(half);
  for (size_t i = 0; i < half; ++i) {
    frequency[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (!freq_factors.empty()) frequency[i] /= double{freq_factors[i]};
  }
  // to += from, rotated by `direction` (1 or -1) times the angle.
  const auto rotate = [=, width = x->width](std::span<const double> from, double direction,
                                            std::span<double> to) {
    for (size_t at = 0; at < from.size(); at += head_dim) {
      const size_t position = at / width;
      for (size_t i = 0; i < half; ++i) {
        const double angle = direction * static_cast<double>(position) * frequency[i];
        const double c = std::cos(angle);
        const double s = std::sin(angle);
        to[at + i] += from[at + i] * c - from[at + i + half] * s;
        to[at + i + half] += from[at + i + half] * c + from[at + i] * s;
      }
    }
  };
  Variable* y = leaf(x->rows, x->width);
  rotate(x->value, 1, y->value);
  steps_.emplace_back([=] { rotate(y->gradient, -1, x->gradient); });
  return y;
}

Variable* Tape::attention(const AttentionShape& shape, Variable* q, Variable* k, Variable* v) {
  const size_t dim = shape.head_dim;
  const size_t group = shape.heads / shape.kv_heads;
  assert(q->width == shape.heads * dim && k->width == shape.kv_heads * dim);
  assert(v->width == k->width && k->rows == q->rows && v->rows == q->rows);
  const auto first_key = [window = size_t{shape.window}](size_t t) {
    return window != 0 && t + 1 > window ? t + 1 - window : 0;
  };
  Variable* o = leaf(q->rows, q->width);
  // Of row t and head h at t * heads + h: for each key that the query sees.
  std::vector<std::vector<double>> probabilities;
  for (size_t t = 0; t < q->rows; ++t) {
    const size_t first = first_key(t);
    for (size_t h = 0; h < shape.heads; ++h) {
      const size_t kv = (h / group) * dim;
      std::vector<double>& p = probabilities.emplace_back(t + 1 - first);
      for (size_t j = 0; j < p.size(); ++j) {
        p[j] = dot(q->row(t).subspan(h * dim, dim), k->row(first + j).subspan(kv, dim));
      }
      softmax(p);
      for (size_t j = 0; j < p.size(); ++j) {
        accumulate(o->row(t).subspan(h * dim, dim), p[j], v->row(first + j).subspan(kv, dim));
      }
    }
  }
  steps_.emplace_back([=, heads = size_t{shape.heads}, all = std::move(probabilities)] {
    for (size_t t = 0; t < q->rows; ++t) {
      const size_t first = first_key(t);
      for (size_t h = 0; h < heads; ++h) {
        const size_t kv = (h / group) * dim;
        const std::vector<double>& p = all[t * heads + h];
        const std::span<const double> d_out = o->gradient_row(t).subspan(h * dim, dim);
        const double mean = dot(d_out, o->row(t).subspan(h * dim, dim));
        for (size_t j = 0; j < p.size(); ++j) {
          const size_t key = first + j;
          accumulate(v->gradient_row(key).subspan(kv, dim), p[j], d_out);
          const double ds = p[j] * (dot(d_out, v->row(key).subspan(kv, dim)) - mean);
          accumulate(q->gradient_row(t).subspan(h * dim, dim), ds, k->row(key).subspan(kv, dim));
          accumulate(k->gradient_row(key).subspan(kv, dim), ds, q->row(t).subspan(h * dim, dim));
        }
      }
    }
  });
  return o;
}

Variable* Tape::rows(Variable* x, std::vector<size_t> indices) {
  Variable* y = leaf(indices.size(), x->width);
  for (size_t i = 0; i < indices.size(); ++i) accumulate(y->row(i), 1, x->row(indices[i]));
  steps_.emplace_back([=, from = std::move(indices)] {
    for (size_t i = 0; i < from.size(); ++i) {
      accumulate(x->gradient_row(from[i]), 1, y->gradient_row(i));
    }
  });
  return y;
}

Variable* Tape::columns(Variable* x, size_t first, size_t width) {
  Variable* y = leaf(x->rows, width);
  for (size_t t = 0; t < x->rows; ++t) accumulate(y->row(t), 1, x->row(t).subspan(first, width));
  steps_.emplace_back([=] {
    for (size_t t = 0; t < x->rows; ++t) {
      accumulate(x->gradient_row(t).subspan(first, width), 1, y->gradient_row(t));
    }
  });
  return y;
}

Variable* Tape::cross_entropy(Variable* x, std::vector<uint32_t> targets, double factor) {
  assert(targets.size() == x->rows);
  Variable* loss = leaf(1, 1);
  std::vector<double> probabilities = x->value;
  for (size_t t = 0; t < x->rows; ++t) {
    assert(targets[t] < x->width);
    const double log_sum = softmax(std::span(probabilities).subspan(t * x->width, x->width));
    loss->value[0] += factor * (log_sum - x->row(t)[targets[t]]);
  }
  steps_.emplace_back([=, p = std::move(probabilities), wanted = std::move(targets)] {
    const double d = loss->gradient[0] * factor;
    accumulate(x->gradient, d, p);
    for (size_t t = 0; t < x->rows; ++t) x->gradient_row(t)[wanted[t]] -= d;
  });
  return loss;
}

void Tape::backward(Variable* loss) {
  assert(loss->value.size() == 1);
  loss->gradient[0] = 1;
  for (size_t i = steps_.size(); i-- > 0;) steps_[i]();
}

}  // namespace lapidary::reference
