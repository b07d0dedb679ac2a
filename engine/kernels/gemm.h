// Small dense products in f32, C = alpha A B (+ C): what LoRA adapters and their gradients are made
// of. One kernel serves every transposition through strides.
#pragma once

#include <cstdint>

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// A number of rows, columns or terms; 0 means step.tokens.
inline constexpr uint32_t kTokens = 0;

// A value of A at (m, k) lies at a_offset + m * a_m + k * a_k, one of B at (k, n) at b_offset + n *
// b_n + k * b_k, one of C at c_offset + m * c_m + n; all in floats. Extents 0: T = step.tokens.
struct GemmSpec {
  uint32_t m = kTokens, n = kTokens, k = kTokens;
  uint32_t a_offset = 0, a_m = 0, a_k = 1;
  uint32_t b_offset = 0, b_n = 0, b_k = 1;
  uint32_t c_offset = 0, c_m = 0;
  float alpha = 1;
  bool accumulate = false;  // adds to C
};
// Bindings: 0 r A, 1 r B, 2 w C, 3 u step.
KernelSource gemm_source(const GemmSpec& spec, const Variant& variant);
Groups gemm_groups(const GemmSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
