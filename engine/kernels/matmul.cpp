// Writes the parts of the matmul's text that depend on its segments.
#include "engine/kernels/matmul.h"

#include <algorithm>
#include <iterator>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

uint32_t tile_rows(const MatmulSpec& spec) { return 16 * spec.tiling.rows; }
uint32_t tile_tokens(const MatmulSpec& spec) { return spec.tiling.threads / 4; }

bool geglu(const MatmulSpec& spec) { return spec.epilogue == Epilogue::kGeglu; }

// Output rows of a workgroup: half of the tile is `up` with GeGLU.
uint32_t rows_per_group(const MatmulSpec& spec) {
  return geglu(spec) ? tile_rows(spec) / 2 : tile_rows(spec);
}

size_t located_segments(const MatmulSpec& spec) { return geglu(spec) ? 1 : spec.segments.size(); }

void add_locate(Composer& composer, const MatmulSpec& spec) {
  std::string text = "fn locate(group: u32) {\n  var at = group;\n";
  uint32_t y_base = spec.row_offset;
  for (size_t i = 0; i < located_segments(spec); ++i) {
    const uint32_t groups = div_ceil(spec.segments[i].rows, rows_per_group(spec));
    text += cat("  if (at < ", groups, "u) {\n    segment = ", i, "u;\n    segment_rows = ROWS_", i,
                ";\n    first_row = at * ", rows_per_group(spec), "u;\n    y_base = ", y_base,
                "u;\n    return;\n  }\n  at -= ", groups, "u;\n");
    y_base += spec.segments[i].rows;
  }
  composer.text(text + "}\n");
}

// decode(r, u, h): half h of unit u of the tile's row r. Rows past the end repeat the last one.
void add_decode(Composer& composer, const MatmulSpec& spec) {
  std::string text = "fn decode(r: u32, u: u32, h: u32) -> mat4x4<f32> {\n";
  const auto call = [&](Codec codec, std::string_view planes) {
    return cat("return ", codec_prefix(codec), "_half(", planes, ", row, u, h);");
  };
  if (geglu(spec)) {
    const uint32_t half = rows_per_group(spec);
    text += cat("  let row = min(first_row + r % ", half, "u, segment_rows - 1u);\n  if (r < ",
                half, "u) { ", call(spec.segments[0].codec, "SEGMENT_0"), " }\n  ",
                call(spec.segments[1].codec, "SEGMENT_1"), "\n");
  } else {
    text += "  let row = min(first_row + r, segment_rows - 1u);\n";
    for (const Codec codec : kCodecs) {
      std::string chosen;
      std::string condition;
      for (size_t i = 0; i < spec.segments.size(); ++i) {
        if (spec.segments[i].codec != codec) continue;
        chosen += chosen.empty()
                      ? cat("    var planes = SEGMENT_", i, ";\n")
                      : cat("    if (segment == ", i, "u) { planes = SEGMENT_", i, "; }\n");
        condition += cat(condition.empty() ? "" : " || ", "segment == ", i, "u");
      }
      if (!chosen.empty())
        text += cat("  if (", condition, ") {\n", chosen, "    ", call(codec, "planes"), "\n  }\n");
    }
    text += "  return mat4x4<f32>();\n";
  }
  composer.text(text + "}\n");
}

// up_a(b): the sum of `up` beside gate's sum a, for the thread's token b.
void add_up(Composer& composer, const MatmulSpec& spec) {
  for (uint32_t a = 0; geglu(spec) && a < spec.tiling.rows / 2; ++a) {
    composer.text(
        cat("fn up_", a, "(b: u32) -> f32 { return sums_", a + spec.tiling.rows / 2, "[b]; }\n"));
  }
}

void add_store(Composer& composer, const MatmulSpec& spec) {
  const uint32_t rows = output_rows(spec.segments, spec.epilogue);
  const uint32_t y_stride = spec.y_stride == 0 ? rows : spec.y_stride;
  const uint32_t mul_stride = spec.mul_stride == 0 ? rows : spec.mul_stride;
  std::string value = "value";
  if (spec.epilogue == Epilogue::kSoftcap) value = "softcap(value)";
  if (spec.epilogue == Epilogue::kGeluMul) {
    value = cat("gelu_tanh(value) * mul[token * ", mul_stride, "u + ", spec.mul_offset,
                "u + y_base - ", spec.row_offset, "u + row]");
  }
  composer.text(cat("fn store(token: u32, row: u32, value: f32) {\n  if (row < segment_rows) {\n",
                    "    y[token * ", y_stride, "u + y_base + row] = ", value, ";\n  }\n}\n"));
}

std::string label_of(const MatmulSpec& spec) {
  return cat("matmul ", shape_label(spec.segments, spec.cols));
}

}  // namespace

bool fits(const MatmulTiling& tiling, uint32_t workgroup_storage) {
  const uint32_t vectors = 8 * (16 * tiling.rows + tiling.threads / 4 + 1);
  return std::ranges::find(kMatmulTilings, tiling) != std::end(kMatmulTilings) &&
         vectors * 16 <= workgroup_storage;
}

std::string tuning_key(const MatmulSpec& spec) {
  return cat(label_of(spec), " ", static_cast<uint32_t>(spec.epilogue));
}

KernelSource matmul_source(const MatmulSpec& spec) {
  const bool aligned = spec.cols % 4 == 0;

  Composer composer;
  composer.bind('r', "weights", "array<vec4<u32>>")
      .bind('w', "y", "array<f32>")
      .bind('r', "x", aligned ? "array<vec4<f32>>" : "array<f32>");
  if (spec.epilogue == Epilogue::kGeluMul) composer.bind('r', "mul", "array<f32>");
  composer.bind('u', "step", "Step")
      .constant("COLS", spec.cols)
      .constant("CAP", spec.cap)
      .constant("THREADS", spec.tiling.threads)
      .constant("ROWS_EACH", spec.tiling.rows)
      .flag("HALF_ROWS", spec.tiling.rows / 2)
      .flag("DECODES", 2 * tile_rows(spec) / spec.tiling.threads)
      .flag("TWO", 2)
      .flag("FOUR", 4)
      .flag("ALIGNED", aligned)
      .flag("GEGLU", geglu(spec))
      .flag("SOFTCAP", spec.epilogue == Epilogue::kSoftcap);
  add_segments(composer, spec.segments, spec.cols);
  composer.include("epilogue.wgsl").include("matmul.wgsl");
  add_locate(composer, spec);
  add_decode(composer, spec);
  add_up(composer, spec);
  add_store(composer, spec);
  return std::move(composer).finish(label_of(spec));
}

Groups matmul_groups(const MatmulSpec& spec, uint32_t tokens) {
  uint32_t groups = 0;
  for (size_t i = 0; i < located_segments(spec); ++i)
    groups += div_ceil(spec.segments[i].rows, rows_per_group(spec));
  return {groups, div_ceil(tokens, tile_tokens(spec)), 1};
}

}  // namespace lapidary::kernels
