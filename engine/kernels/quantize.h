// Activations of many tokens as signed bytes or as halves: what the integer forms of the matmul
// and its matrix form multiply.
#pragma once

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// A unit (32 columns) of a token has its own scale. Layout, in vectors of 16 bytes: vector v of
// unit u of token t at (u * V + v) * T + t, T = step.tokens, so that a workgroup of the matmul
// reads neighbouring tokens from neighbouring addresses. kInt16: V = 5, the high bytes of columns
// 0-15 and 16-31, their low bytes, and (scale, sum of the unit's values, sums of its halves); value
// = scale * (128 * high + low), off by at most 1/32,638 of the largest of the 32. kInt8: V = 3,
// without low bytes; value = scale * high, off by at most 1/254 of it. The sums are for formats
// with a minimum (Q4_K; by halves Q2_K).
//
// kMatrix: halves [T, cols], then T scales in f32, powers of two; value = scale * half, off by at
// most 2^-10 of itself, or 2^-37 of the token's largest where that is more.
struct QuantizeSpec {
  uint32_t cols = 0;      // a multiple of 32, at most 32 * 65,535
  Dot dot = Dot::kInt16;  // not kF32
  bool light = false;     // as Variant's
  uint32_t each = 1;      // rows that a token has: T = each * step.tokens
};

// V of the above, of an integer form.
constexpr uint32_t quantized_vectors(Dot dot) { return dot == Dot::kInt16 ? 5 : 3; }
// What `tokens` rows of `cols` columns take.
constexpr uint64_t quantized_bytes(Dot dot, uint64_t cols, uint64_t tokens) {
  if (dot == Dot::kMatrix) return 2 * cols * tokens + (tokens + 3) / 4 * 16;
  return (cols + 31) / 32 * quantized_vectors(dot) * 16 * tokens;
}

// Bindings: 0 r X [T, cols] f32, 1 w quantized, 2 u step.
KernelSource quantize_source(const QuantizeSpec& spec);
// tokens: at least 1 and at most 64 * 65,535.
Groups quantize_groups(const QuantizeSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
