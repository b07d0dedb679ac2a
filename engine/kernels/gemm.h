// Small dense products in f32, C = alpha A B (+ C): what LoRA adapters and their gradients are made
// of. Two kernels serve every shape and transposition: shapes and strides are parameters, for a
// model's adapters have hundreds.
#pragma once

#include <cstdint>

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// A number of rows, columns or terms that stands for step.tokens.
inline constexpr uint32_t kTokens = 0;

// The twin of WGSL's struct Gemm. A value of A at (m, k) lies at a_offset + m * a_m + k * a_k, one
// of B at (k, n) at b_offset + n * b_n + k * b_k, one of C at c_offset + m * c_m + n; in floats.
struct alignas(16) GemmSpec {
  uint32_t m = kTokens, n = kTokens, k = kTokens;
  uint32_t a_offset = 0, a_m = 0, a_k = 1;
  uint32_t b_offset = 0, b_n = 0, b_k = 1;
  uint32_t c_offset = 0, c_m = 0;
  float alpha = 1;
  uint32_t accumulate = 0;  // 1: adds to C
};
static_assert(sizeof(GemmSpec) == 64);

// Bindings: 0 r A, 1 r B, 2 w C, 3 u GemmSpec, 4 u step. Of the spec only whether a side is thin
// decides about the kernel.
KernelSource gemm_source(const GemmSpec& spec, const Variant& variant);
Groups gemm_groups(const GemmSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
