// Known-answer tests of every kernel family, run at load on the user's own device: silent wrong
// output on some GPUs is this field's signature failure. Each compares with plain loops on the CPU.
#pragma once

#include <optional>

#include "engine/gpu/device.h"
#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// kSelfTest, with the family and the first wrong value, when this device answers wrongly.
Task<Status> selftest_weights(gpu::Device& device,
                              Variant variant);  // repack, gather, matvec, matmul
Task<Status> selftest_attention(gpu::Device& device,
                                Variant variant);  // selftest_attention.cpp (and norms)
Task<Status> selftest_sampling(gpu::Device& device, Variant variant);  // selftest_sampling.cpp

// What of a variant a caller insists on.
struct VariantWish {
  std::optional<bool> subgroups;
  std::optional<Dot> dot;
  std::optional<Dot> prefill;
};

// The fastest variant that this device offers and computes rightly, among those that are wished
// for. A variant that fails is dropped with a warning; kSelfTest when the plainest fails too;
// kUnsupported when the device lacks what is wished for.
Task<Result<Variant>> choose_variant(gpu::Device& device, const VariantWish& wish = {});

}  // namespace lapidary::kernels
