// Known-answer tests of every kernel family, run at load on the user's own device: silent wrong
// output on some GPUs is this field's signature failure. Each compares with plain loops on the CPU.
#pragma once

#include <optional>

#include "engine/gpu/device.h"
#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// Formats that few files have: kernels for them are tested only where the model is one of those.
bool is_rare(Codec codec);

// Repack, gather, matvec and matmul. kSelfTest, with the family and the first wrong value, when
// this device answers wrongly.
Task<Status> selftest_weights(gpu::Device& device, Variant variant, bool rare_codecs = true);
Task<Status> selftest_attention(gpu::Device& device,
                                Variant variant);  // selftest_attention.cpp (and norms)
Task<Status> selftest_sampling(gpu::Device& device, Variant variant);  // selftest_sampling.cpp

// What of a variant a caller insists on.
struct VariantWish {
  std::optional<bool> subgroups;
  std::optional<Dot> dot;
  std::optional<Dot> prefill;
  bool rare_codecs = true;  // whether their kernels are needed
};

// The fastest variant that this device offers and computes rightly, among those that are wished
// for. A variant that fails is dropped with a warning; kSelfTest when the plainest fails too;
// kUnsupported when the device lacks what is wished for.
Task<Result<Variant>> choose_variant(gpu::Device& device, const VariantWish& wish = {});

}  // namespace lapidary::kernels
