// Y = X W^T for many tokens, in tiles in workgroup memory. The float form decodes weights to f32.
// The integer forms multiply quants by activations that a dispatch of quantize.h made signed bytes
// of: a quarter of the traffic of tiles, products of four at once, for one dispatch more. Which is
// faster depends on the GPU and the shape, so the float form is the default and an integer one is
// taken where the tuner (model/tuner.h) measured a gain, or where Variant::prefill says so. So is
// the matrix form, on devices that have subgroup matrices: weights and activations become halves.
#pragma once

#include <vector>

#include "engine/kernels/compose.h"
#include "engine/kernels/matvec.h"

namespace lapidary::kernels {

// The cut of a matmul: a workgroup has `threads` threads, each of which computes `rows` rows for 4
// tokens: 16 * rows rows of W for threads / 4 tokens. In the matrix form, for threads / 2 tokens.
struct MatmulTiling {
  uint32_t threads = 128;
  uint32_t rows = 4;
  bool operator==(const MatmulTiling&) const = default;
};

inline constexpr MatmulTiling kMatmulTilings[] = {{128, 4}, {128, 8}, {256, 8}};
// Whether it is one of these, and its tiles fit the workgroup memory of a device, in bytes.
bool fits(const MatmulTiling& tiling, Dot dot, uint32_t workgroup_storage);

struct MatmulSpec {
  std::vector<Segment> segments;
  uint32_t cols = 0;
  Epilogue epilogue = Epilogue::kStore;  // kGeluMul: r mul, see below
  float cap = 30.0f;                     // kSoftcap
  // Y's row of a token: y_stride floats, of which this kernel writes those from row_offset on.
  // y_stride 0: as many as the kernel has output rows.
  uint32_t y_stride = 0;
  uint32_t row_offset = 0;
  // kGeluMul: the factor of token t, row r is mul[t * mul_stride + mul_offset + r]. mul_stride 0:
  // the number of output rows.
  uint32_t mul_stride = 0;
  uint32_t mul_offset = 0;
  // Not 0: only so many rows of the one segment, from step.position on, at the start of Y's row.
  uint32_t window = 0;
  // X is clamped to [clip[0], clip[1]] and Y to [clip[2], clip[3]]; kStore, in the float form only.
  bool clip = false;
  // A mixture of experts: of the rows of all tokens' experts, sorted by expert (experts.h), a
  // workgroup has some of one. As a matvec's, with those rows in Y and in an X that is not shared.
  std::optional<ExpertRows> experts;
  MatmulTiling tiling;
  Dot dot = Dot::kF32;  // not kF32: all segments have integer quants; kMatrix: kFeatureMatrix, too
  bool light = false;   // as Variant's
};

// Tokens of a workgroup.
uint32_t tile_tokens(const MatmulTiling& tiling, Dot dot);
// The forms beside kF32 that matmuls may have.
std::vector<Dot> quantized_forms(const Variant& variant);
// The forms to choose from for a product of `segments`: the usual one first.
std::vector<Dot> matmul_forms(std::span<const Segment> segments, const Variant& variant);

// X: [T, cols] f32, or what quantize.h makes of it for spec.dot. Y: [T, y_stride] f32.
// T = step.tokens.
// Bindings: 0 r weights, 1 w Y, 2 r X, 3 r mul (kGeluMul only) or r clip f32 [4] (clip), with
// experts r tiles and r order (experts.h, for tile_tokens()), last u step.
KernelSource matmul_source(const MatmulSpec& spec);
// As matvec's, with the forms there are.
std::string tuning_key(const MatmulSpec& spec, const Variant& variant);
// T at least 1 and at most 65,535 * 32; with experts used * T at most 65,535.
Groups matmul_groups(const MatmulSpec& spec, uint32_t tokens);

}  // namespace lapidary::kernels
