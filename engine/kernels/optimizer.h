// AdamW on the GPU: the global norm of all gradients, and the step (Loshchilov and Hutter,
// "Decoupled Weight Decay Regularization", 2019). All values f32.
#pragma once

#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// Gradients whose squares one workgroup sums.
inline constexpr uint32_t kSquaresRun = 16384;
inline constexpr uint32_t square_parts(uint64_t count) {
  return static_cast<uint32_t>((count + kSquaresRun - 1) / kSquaresRun);
}

// Partial sums of `count` gradients, from partial[first] on.
//   0 r gradients   1 w partial
// Dispatch: square_parts(count) workgroups, at most 65,535.
KernelSource sum_squares_source(uint32_t count, uint32_t first, const Variant& variant);
//   0 r partial f32 [parts]   1 w result: result[1] becomes the square of the global norm
// Dispatch: one workgroup.
KernelSource total_squares_source(uint32_t parts, const Variant& variant);

// Twin of WGSL's struct AdamParams.
struct alignas(16) AdamParams {
  float rate = 0;
  float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
  float decay = 0;                         // rate times weight decay
  float correction1 = 1, correction2 = 1;  // 1 - beta^step
  float clip = 0;                          // largest global norm; 0: any
};
static_assert(sizeof(AdamParams) == 32);
//   0 w values [count]   1 w gradients [count]: end as zeros   2 w moments [count][2]
//   3 r result   4 u AdamParams
KernelSource adamw_source(uint32_t count);
Groups adamw_groups(uint32_t count);

}  // namespace lapidary::kernels
