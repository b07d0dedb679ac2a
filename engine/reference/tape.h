// Reverse-mode differentiation of the text model's operations, in double. An operation computes its
// result at once and leaves behind how to take the gradient back: given dL/dy of its result y, add
// dL/dx to each input x. Calling these in reverse order from the loss visits every variable after
// all its uses, so a variable that several operations read (the residual stream, shared keys and
// values) collects the sum of what they ask for. Weights of the model are constants: only variables
// have gradients. Shapes are the caller's duty, and asserted.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "engine/reference/model.h"
#include "engine/reference/ops.h"

namespace lapidary::reference {

// A matrix [rows, width], row-major, and the gradient of the loss by each of its values.
struct Variable {
  Variable(size_t row_count, size_t row_width);

  size_t rows;
  size_t width;
  std::vector<double> value;
  std::vector<double> gradient;

  std::span<double> row(size_t t) { return std::span(value).subspan(t * width, width); }
  std::span<double> gradient_row(size_t t) { return std::span(gradient).subspan(t * width, width); }
};

class Tape {
 public:
  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Zeros, for the caller to fill. This and every other result lives as long as the tape.
  Variable* leaf(size_t rows, size_t width);

  // y = x + factor z. dx += dy; dz += factor dy.
  Variable* add(Variable* x, Variable* z, double factor = 1);
  // y = factor x. dx += factor dy.
  Variable* scale(Variable* x, double factor);
  // y_i = x_i z_i. dx_i += dy_i z_i; dz_i += dy_i x_i.
  Variable* multiply(Variable* x, Variable* z);
  // y = gelu(x) = x (1 + T) / 2 with T = tanh(c (x + a x^3)), c = sqrt(2 / pi), a = 0.044715.
  // dx += dy ((1 + T) / 2 + x (1 - T^2) c (1 + 3 a x^2) / 2).
  Variable* gelu(Variable* x);
  // y = cap tanh(x / cap), or x if cap is 0. dx += dy (1 - (y / cap)^2).
  Variable* softcap(Variable* x, double cap);

  // Y = X Wᵀ with rows of inputs in X [rows, n] and of outputs in W [m, n]. dX += dY W.
  Variable* project(Variable* x, const Matrix& weight);
  // The same by a variable W, where also dW += dYᵀ X. W may live outside the tape, and so collect
  // gradients of several tapes.
  Variable* project(Variable* x, Variable* weight);

  // Every run of `group` values of a row on its own: y_i = w_i r x_i, r = (mean(x^2) + eps)^(-1/2);
  // an empty weight means ones. With g_i = w_i dy_i: dx_i += r g_i - x_i r^3 / group sum_j g_j x_j.
  Variable* rms_norm(Variable* x, std::span<const float> weight, size_t group, double eps);

  // Rotates every head of `head_dim` values of row t as reference::rope does at position t. A
  // rotation's inverse is its transpose: dx += dy, rotated back.
  Variable* rope(Variable* x, size_t head_dim, double theta, std::span<const float> freq_factors);

  // Causal attention of every row t of q [rows, heads head_dim] to rows j <= t of k and v [rows,
  // kv_heads head_dim], as reference::attention. For one query and head, over the keys it sees:
  // p = softmax(q·k_j), o = sum_j p_j v_j. Back: dv_j += p_j do, and with
  // ds_j = p_j (do·v_j - do·o): dq += sum_j ds_j k_j, dk_j += ds_j q.
  Variable* attention(const AttentionShape& shape, Variable* q, Variable* k, Variable* v);

  // Some rows of x, or the columns first … first + width - 1 of all rows.
  Variable* rows(Variable* x, std::vector<size_t> indices);
  Variable* columns(Variable* x, size_t first, size_t width);

  // L = factor sum_t -log softmax(x_t)[targets[t]], a matrix of one value.
  // dx_ti += dL factor (softmax(x_t)_i - [i = targets[t]]).
  Variable* cross_entropy(Variable* x, std::vector<uint32_t> targets, double factor);

  // Adds the gradients of loss->value[0] to all that it was computed from. Once a tape.
  void backward(Variable* loss);

 private:
  // y_i = f(x_i); derivative(x_i, y_i) is f'(x_i).
  template <typename F, typename D>
  Variable* map(Variable* x, F f, D derivative);

  std::deque<Variable> variables_;  // which stay where they are as it grows
  std::vector<std::function<void()>> steps_;
};

}  // namespace lapidary::reference
