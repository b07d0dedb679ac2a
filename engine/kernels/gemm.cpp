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

void add_extent(Composer& composer, std::string_view name, uint32_t extent) {
  composer.text(cat("fn extent_", name, "() -> u32 { return ",
                    extent == kTokens ? "step.tokens" : cat(extent, "u"), "; }\n"));
}

}  // namespace

KernelSource gemm_source(const GemmSpec& spec, const Variant& variant) {
  const Tiles tiles = tiles_of(spec);
  Composer composer;
  composer.bind('r', "a", "array<f32>")
      .bind('r', "b", "array<f32>")
      .bind('w', "c", "array<f32>")
      .bind('u', "step", "Step")
      .flag("LIGHT", variant.light)
      .flag("ACCUMULATE", spec.accumulate)
      .flag("A_ALONG_K", spec.a_k == 1)
      .flag("B_ALONG_K", spec.b_k == 1)
      .flag("M_EACH", tiles.m / 16)
      .flag("N_EACH", tiles.n / 16)
      .constant("TILE_M", tiles.m)
      .constant("TILE_N", tiles.n)
      .constant("TILE_K", tiles.k)
      .constant("A_OFFSET", spec.a_offset)
      .constant("A_M", spec.a_m)
      .constant("A_K", spec.a_k)
      .constant("B_OFFSET", spec.b_offset)
      .constant("B_N", spec.b_n)
      .constant("B_K", spec.b_k)
      .constant("C_OFFSET", spec.c_offset)
      .constant("C_M", spec.c_m)
      .constant("ALPHA", spec.alpha);
  add_extent(composer, "m", spec.m);
  add_extent(composer, "n", spec.n);
  add_extent(composer, "k", spec.k);
  composer.include("gemm.wgsl");
  return std::move(composer).finish(cat("gemm ", spec.m, "x", spec.n, "x", spec.k));
}

Groups gemm_groups(const GemmSpec& spec, uint32_t tokens) {
  const Tiles tiles = tiles_of(spec);
  const auto extent = [&](uint32_t value) { return value == kTokens ? tokens : value; };
  return {div_ceil(extent(spec.n), tiles.n), div_ceil(extent(spec.m), tiles.m), 1};
}

}  // namespace lapidary::kernels
