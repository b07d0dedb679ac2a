#include "engine/kernels/matmul_back.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kTileTokens = 64;
constexpr uint32_t kTileCols = 128;
constexpr uint32_t kTileRows = 16;

// locate(chunk): where the rows of a chunk are. A window's rows come from step.position on.
void add_locate(Composer& composer, const MatmulBackSpec& spec) {
  std::string text = "fn locate(chunk: u32) {\n  var at = chunk;\n";
  if (spec.window != 0) {
    text += cat("  segment = 0u;\n  first_row = step.position + at * ", kTileRows,
                "u;\n  end_row = min(step.position + ", spec.window,
                "u, ROWS_0);\n  y_base = 0u - step.position;\n");
  } else {
    uint32_t y_base = 0;
    for (size_t i = 0; i < spec.segments.size(); ++i) {
      const uint32_t chunks = div_ceil(spec.segments[i].rows, kTileRows);
      text += cat("  if (at < ", chunks, "u) {\n    segment = ", i, "u;\n    first_row = at * ",
                  kTileRows, "u;\n    end_row = ROWS_", i, ";\n    y_base = ", y_base,
                  "u;\n    return;\n  }\n  at -= ", chunks, "u;\n");
      y_base += spec.segments[i].rows;
    }
  }
  composer.text(text + "}\n");
}

// decode(row, u, h): half h of unit u of a row of the chunk's segment.
void add_decode(Composer& composer, const MatmulBackSpec& spec) {
  std::string text = "fn decode(row: u32, u: u32, h: u32) -> mat4x4<f32> {\n";
  for (size_t i = 0; i < spec.segments.size(); ++i) {
    const std::string call =
        cat("return ", codec_prefix(spec.segments[i].codec), "_half(SEGMENT_", i, ", row, u, h);");
    text += i + 1 < spec.segments.size() ? cat("  if (segment == ", i, "u) { ", call, " }\n")
                                         : cat("  ", call, "\n");
  }
  composer.text(text + "}\n");
}

}  // namespace

KernelSource matmul_back_source(const MatmulBackSpec& spec, const Variant& variant) {
  uint32_t chunks = 0;
  for (const Segment& segment : spec.segments) chunks += div_ceil(segment.rows, kTileRows);
  if (spec.window != 0) chunks = div_ceil(spec.window, kTileRows);
  Composer composer;
  composer.bind('r', "weights", "array<vec4<u32>>")
      .bind('w', "dx", "array<f32>")
      .bind('r', "dy", "array<f32>")
      .bind('u', "step", "Step")
      .flag("LIGHT", variant.light)
      .flag("ACCUMULATE", spec.accumulate)
      .flag("EIGHT", 8)
      .constant("COLS", spec.cols)
      .constant("CHUNKS", chunks)
      .constant("DY_STRIDE", spec.window != 0 ? spec.window : total_rows(spec.segments));
  add_segments(composer, spec.segments, spec.cols);
  composer.include("matmul_back.wgsl");
  add_locate(composer, spec);
  add_decode(composer, spec);
  return std::move(composer).finish(cat("matmul back ", shape_label(spec.segments, spec.cols)));
}

Groups matmul_back_groups(const MatmulBackSpec& spec, uint32_t tokens) {
  return {div_ceil(spec.cols, kTileCols), div_ceil(tokens, kTileTokens), 1};
}

}  // namespace lapidary::kernels
