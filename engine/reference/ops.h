// The operations of the text model as plain functions on spans: what kernels are tested against.
// Values are f32, every sum is accumulated in double. Shapes are the caller's duty: a span of the
// wrong size is a defect of the test, and asserted.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/gguf/tensor_type.h"

namespace lapidary::reference {

// Sum of a[i] * b[i]; a and b of one length.
double dot(std::span<const float> a, std::span<const float> b);

// y[o] = sum_i weight[o * x.size() + i] * x[i]; weight: [y.size(), x.size()] row-major.
void matvec(std::span<const float> weight, std::span<const float> x, std::span<float> y);

// The same for a matrix as it lies in a GGUF file: y.size() rows of x.size() elements of `type`.
// kUnsupported, kInvalidArgument as gguf::decode_block_row.
Status matvec(gguf::TensorType type, Bytes weight, std::span<const float> x, std::span<float> y);

// y = x / sqrt(mean(x^2) + eps) * weight; an empty weight means ones. y may be x (gemma4.md: rms(x,
// w)).
void rms_norm(std::span<const float> x, std::span<const float> weight, float eps,
              std::span<float> y);

// gelu, tanh form: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
float gelu(float x);

// Rotates one head in place, pairs (i, i + n / 2): angle_i = position * theta^(-2 i / n) /
// freq_factors[i]. freq_factors: [n / 2], or empty for ones.
void rope(std::span<float> head, uint32_t position, float theta,
          std::span<const float> freq_factors);

// logits = cap * tanh(logits / cap); cap 0 leaves them alone.
void softcap(std::span<float> logits, float cap);

// x = exp(x - max) / sum; -infinity becomes 0.
void softmax(std::span<float> x);

struct AttentionShape {
  uint32_t heads;
  uint32_t kv_heads;  // divides heads; head h reads KV head h / (heads / kv_heads)
  uint32_t head_dim;
  uint32_t window;  // keys a query sees, itself included; 0 = all
};

// One query against keys 0 … position: scores are unscaled dot products, softmax, weighted sum of
// values. q, out: [heads, head_dim]; k, v: [at least position + 1, kv_heads, head_dim]. last_key:
// the last key that the query may see, normally its own position (later inside an image block).
void attention(const AttentionShape& shape, std::span<const float> q, std::span<const float> k,
               std::span<const float> v, uint32_t position, std::span<float> out);
void attention(const AttentionShape& shape, std::span<const float> q, std::span<const float> k,
               std::span<const float> v, uint32_t position, uint32_t last_key,
               std::span<float> out);

struct Candidate {
  uint32_t id;
  float value;
};

// The k largest values, best first; among equals the lower id first. At most values.size() of them.
std::vector<Candidate> top_k(std::span<const float> values, uint32_t k);

// x rounded to the nearest half and back, as an f16 KV cache stores it.
void round_to_half(std::span<float> x);

}  // namespace lapidary::reference
