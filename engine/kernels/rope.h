// Tables of cosines and sines for rotary position embedding (gemma4.md §4.5), made in double on the
// CPU: WGSL's sin and cos are inaccurate for the arguments of a long context.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lapidary::kernels {

// Positions are split as hi * kRopeLow + lo; a kernel multiplies two unit complex numbers, so two
// small tables serve every position.
inline constexpr uint32_t kRopeLow = 256;
inline constexpr uint32_t kRopeMaxContext = 1u << 18;

// Pair i of a head joins the elements i and i + head_dim/2. The number of leading pairs that rotate
// at all: 1 + the last i whose factor is below 1e20, or head_dim/2 without factors. Pairs after it
// are unrotated (Gemma's "proportional" rope stores 1e30 there).
// freq_factors: empty, or head_dim/2 floats.
uint32_t rope_rotated_pairs(uint32_t head_dim, std::span<const float> freq_factors);

// The angle of pair i at position p is p * theta^(-2i/head_dim) / freq_factors[i].
// Returns [kRopeLow + ceil(context/kRopeLow)][rotated_pairs][2] floats (cos, sin): first the rows
// of lo = 0..255, then those of hi = 0, 1, … (angle of position hi*256).
// context: 1..kRopeMaxContext; larger is cut to it. freq_factors: empty, or at least rotated_pairs
// floats. rotated_pairs 0 gives one unused pair of floats, so that a buffer can be made of it.
std::vector<float> rope_table(uint32_t head_dim, uint32_t rotated_pairs, double theta,
                              std::span<const float> freq_factors, uint32_t context);

}  // namespace lapidary::kernels
