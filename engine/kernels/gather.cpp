#include "engine/kernels/gather.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {

KernelSource gather_source(const GatherSpec& spec) {
  const Segment part{.codec = spec.codec, .rows = spec.row_count};
  const std::string_view prefix = codec_prefix(spec.codec);
  // A whole unit is written as vectors: the last one must not run past the row.
  const bool aligned = spec.cols % 32 == 0;
  Composer composer;
  composer.bind('r', "weights", "array<vec4<u32>>")
      .bind('r', "tokens", "array<u32>")
      .bind('w', "out", aligned ? "array<vec4<f32>>" : "array<f32>")
      .bind('u', "step", "Step")
      .constant("COLS", spec.cols)
      .constant("ROW_BEGIN", spec.row_begin)
      .constant("SCALE", spec.scale)
      .flag("ALIGNED", aligned);
  add_segments(composer, {&part, 1}, spec.cols);
  composer
      .text(cat("fn decode_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> { return ",
                prefix, "_half(p, row, u, h); }\n"))
      .include("gather.wgsl");
  return std::move(composer).finish(cat("gather ", prefix, " ", spec.cols));
}

Groups gather_groups(const GatherSpec& spec, uint32_t tokens) {
  return {div_ceil(div_ceil(spec.cols, 32) * 2, 64), tokens, 1};
}

}  // namespace lapidary::kernels
