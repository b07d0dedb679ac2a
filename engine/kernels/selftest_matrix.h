// Weights for self-tests and kernel tests: random blocks of every format with sane scales, their
// exact f32 values, and their way into a group's buffer on the GPU.
#pragma once

#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/layout.h"

namespace lapidary::kernels {

struct TrialMatrix {
  Codec codec;
  uint32_t rows;
  uint32_t cols;
  std::vector<std::byte> file;  // as a GGUF file has it
  std::vector<float> values;    // [rows, cols], decoded by gguf/codec.h
};

// Values around 1 / sqrt(cols), so that products with activations near 1 are near 1. check_matrix()
// must hold.
TrialMatrix trial_matrix(Codec codec, uint32_t rows, uint32_t cols, uint32_t seed);

struct TrialGroup {
  std::vector<TrialMatrix> matrices;
  std::vector<Segment> segments;
  gpu::Buffer buffer;
};

// Repacks the matrices one after another into one buffer, in dispatches of `chunk_rows` rows (0:
// all at once).
Task<Result<TrialGroup>> trial_group(gpu::Device& device, std::vector<TrialMatrix> matrices,
                                     uint32_t chunk_rows = 0);

// y[row] = W x in double, over all matrices of the group.
std::vector<double> trial_product(const TrialGroup& group, const float* x);

}  // namespace lapidary::kernels
