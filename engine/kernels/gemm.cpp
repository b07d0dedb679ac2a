#include "engine/kernels/gemm.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

// The side of a tile: 16 for the ranks of adapters, 64 for all else.
uint32_t tile(uint32_t extent) { return extent != kTokens && extent <= 16 ? 16 : 64; }

struct Tiles {
  uint32_t m, n, k;
};
// Where one side is thin there are few workgroups: both are made thin then, and walk faster.
Tiles tiles_of(const GemmSpec& spec) {
  if (tile(spec.m) == 64 && tile(spec.n) == 64) return {64, 64, 16};
  return {16, 16, 64};
}

}  // namespace

KernelSource gemm_source(const GemmSpec& spec, const Variant& variant) {
  const Tiles tiles = tiles_of(spec);
  Composer composer;
  composer.bind('r', "a", "array<f32>")
      .bind('r', "b", "array<f32>")
      .bind('w', "c", "array<f32>")
      .bind('u', "gemm", "Gemm")
      .bind('u', "step", "Step")
      .flag("LIGHT", variant.light)
      .flag("M_EACH", tiles.m / 16)
      .flag("N_EACH", tiles.n / 16)
      .constant("TILE_M", tiles.m)
      .constant("TILE_N", tiles.n)
      .constant("TILE_K", tiles.k)
      .include("gemm.wgsl");
  return std::move(composer).finish(cat("gemm ", tiles.m, "x", tiles.n));
}

Groups gemm_groups(const GemmSpec& spec, uint32_t tokens) {
  const Tiles tiles = tiles_of(spec);
  const auto extent = [&](uint32_t value) { return value == kTokens ? tokens : value; };
  return {div_ceil(extent(spec.n), tiles.n), div_ceil(extent(spec.m), tiles.m), 1};
}

}  // namespace lapidary::kernels
