// Writes the parts of the matmul's text that depend on its segments.
#include "engine/kernels/matmul.h"

#include <algorithm>
#include <iterator>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/experts.h"
#include "engine/kernels/quantize.h"

namespace lapidary::kernels {
namespace {

uint32_t tile_rows(const MatmulSpec& spec) { return 16 * spec.tiling.rows; }
bool geglu(const MatmulSpec& spec) { return spec.epilogue == Epilogue::kGeglu; }

// Output rows of a workgroup: half of the tile is `up` with GeGLU.
uint32_t rows_per_group(const MatmulSpec& spec) {
  return geglu(spec) ? tile_rows(spec) / 2 : tile_rows(spec);
}

size_t located_segments(const MatmulSpec& spec) { return geglu(spec) ? 1 : spec.segments.size(); }

void add_locate(Composer& composer, const MatmulSpec& spec) {
  std::string text = "fn locate(group: u32) {\n  var at = group;\n";
  if (spec.window != 0) {
    composer.text(
        cat("fn locate(group: u32) {\n  segment = 0u;\n  first_row = step.position + group * ",
            rows_per_group(spec), "u;\n  segment_rows = min(step.position + ", spec.window,
            "u, ROWS_0);\n  y_base = 0u - step.position;\n}\n"));
    return;
  }
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

// fn NAME(PARAMETERS) -> RESULT, for the tile's row r: what call(codec, planes) writes, by the
// codec of the row's segment. `row` is r's in the segment; rows past the end repeat the last one.
void add_by_codec(Composer& composer, const MatmulSpec& spec, std::string_view name,
                  std::string_view parameters, std::string_view result, const auto& call) {
  std::string text = cat("fn ", name, "(", parameters, ") -> ", result, " {\n");
  const auto of = [&](Codec codec, std::string_view planes) {
    return cat("return ", call(codec_prefix(codec), planes), ";");
  };
  const std::string_view expert = spec.experts ? " + expert_row" : "";
  if (geglu(spec)) {
    const uint32_t half = rows_per_group(spec);
    text += cat("  let row = min(first_row + r % ", half, "u, segment_rows - 1u)", expert,
                ";\n  if (r < ", half, "u) { ", of(spec.segments[0].codec, "SEGMENT_0"), " }\n  ",
                of(spec.segments[1].codec, "SEGMENT_1"), "\n");
  } else {
    text += cat("  let row = min(first_row + r, segment_rows - 1u)", expert, ";\n");
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
        text += cat("  if (", condition, ") {\n", chosen, "    ", of(codec, "planes"), "\n  }\n");
    }
    text += cat("  return ", result, "();\n");
  }
  composer.text(text + "}\n");
}

// decode(r, u, h): half h of unit u of the tile's row r. The others read a unit first
// (fetch_weights) and make bytes of its halves later (unpack).
void add_codecs(Composer& composer, const MatmulSpec& spec) {
  if (spec.dot == Dot::kF32) {
    add_by_codec(composer, spec, "decode", "r: u32, u: u32, h: u32", "mat4x4<f32>",
                 [](std::string_view codec, std::string_view planes) {
                   return cat(codec, "_half(", planes, ", row, u, h)");
                 });
    return;
  }
  add_by_codec(composer, spec, "fetch_weights", "r: u32, u: u32", "Fetched",
               [](std::string_view codec, std::string_view planes) {
                 return cat(codec, "_fetch(", planes, ", row, u)");
               });
  add_by_codec(
      composer, spec, "unpack", "f: Fetched, r: u32, u: u32, h: u32", "Quants",
      [](std::string_view codec, std::string_view) { return cat(codec, "_quants(f, u, h)"); });
}

// up_a(b): the sum of `up` beside gate's sum a, for the thread's token b.
void add_up(Composer& composer, const MatmulSpec& spec) {
  if (!geglu(spec) || spec.dot == Dot::kMatrix) return;
  for (uint32_t a = 0; a < spec.tiling.rows / 2; ++a) {
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
  if (spec.clip) value = "clamp(value, clip[2], clip[3])";
  if (spec.epilogue == Epilogue::kGeluMul) {
    value = cat("gelu_tanh(value) * mul[token * ", mul_stride, "u + ", spec.mul_offset,
                "u + y_base - ", spec.row_offset, "u + row]");
  }
  composer.text(cat("fn store(token: u32, row: u32, value: f32) {\n  if (row < segment_rows) {\n",
                    "    y[token * ", y_stride, "u + y_base + row] = ", value, ";\n  }\n}\n"));
}

bool any_codec(const MatmulSpec& spec, auto&& is) {
  return std::ranges::any_of(spec.segments,
                             [&](const Segment& segment) { return is(segment.codec); });
}

std::string label_of(const MatmulSpec& spec) {
  return cat(spec.clip ? "clipped " : "", "matmul ",
             spec.dot == Dot::kF32 ? "" : cat(dot_name(spec.dot), " "),
             shape_label(spec.segments, spec.cols));
}

// Bytes of workgroup memory that the tiles take.
uint32_t tile_bytes(const MatmulTiling& tiling, Dot dot) {
  const uint32_t rows = 16 * tiling.rows;
  const uint32_t tokens = tile_tokens(tiling, dot);
  if (dot == Dot::kF32) return 8 * (rows + tokens + 1) * 16;
  // Two tiles of 5 vectors a row or token, and 1 KiB of sums for each 32 threads.
  if (dot == Dot::kMatrix) return 2 * (rows + tokens) * 5 * 16 + 32 * tiling.threads;
  // Of a row's unit 32 bytes and at most two scales and offsets, of a token's a scale and sums.
  return rows * (32 + 2 * 8) + tokens * quantized_vectors(dot) * 16;
}

}  // namespace

uint32_t tile_tokens(const MatmulTiling& tiling, Dot dot) {
  return tiling.threads / (dot == Dot::kMatrix ? 2 : 4);
}

std::vector<Dot> quantized_forms(const Variant& variant) {
  std::vector<Dot> forms;
  const Dot form = variant.prefill.value_or(variant.dot);
  if (form != Dot::kF32) forms.push_back(form);
  if (!variant.prefill && variant.matrix) forms.push_back(Dot::kMatrix);
  return forms;
}

std::vector<Dot> matmul_forms(std::span<const Segment> segments, const Variant& variant) {
  const bool integer = std::ranges::all_of(
      segments, [](const Segment& segment) { return has_integer_quants(segment.codec); });
  if (!integer) return {Dot::kF32};
  std::vector<Dot> forms = quantized_forms(variant);
  if (forms.empty() || !variant.prefill) forms.insert(forms.begin(), Dot::kF32);
  return forms;
}

bool fits(const MatmulTiling& tiling, Dot dot, uint32_t workgroup_storage) {
  return std::ranges::find(kMatmulTilings, tiling) != std::end(kMatmulTilings) &&
         tile_bytes(tiling, dot) <= workgroup_storage;
}

std::string tuning_key(const MatmulSpec& spec, const Variant& variant) {
  std::string key = cat("matmul ", shape_label(spec.segments, spec.cols), " ",
                        static_cast<uint32_t>(spec.epilogue));
  for (const Dot form : matmul_forms(spec.segments, variant)) key += cat(" ", dot_name(form));
  return key;
}

KernelSource matmul_source(const MatmulSpec& spec) {
  const bool aligned = spec.cols % 4 == 0;
  const bool matrix = spec.dot == Dot::kMatrix;
  const bool integer = spec.dot != Dot::kF32;  // or matrix
  const bool two_scales = any_codec(spec, has_half_scales);

  Composer composer;
  composer.bind('r', "weights", "array<vec4<u32>>")
      .bind('w', "y", "array<f32>")
      .bind('r', "x",
            integer   ? "array<vec4<u32>>"
            : aligned ? "array<vec4<f32>>"
                      : "array<f32>");
  if (spec.epilogue == Epilogue::kGeluMul) composer.bind('r', "mul", "array<f32>");
  if (spec.clip) composer.bind('r', "clip", "array<f32>");
  if (spec.experts) {
    const ExpertRows& experts = *spec.experts;
    composer.bind('r', "tiles", "array<vec4<u32>>")
        .bind('r', "order", "array<u32>")
        .constant("FIRST_EXPERT", experts.first)
        .constant("EXPERT_COUNT", experts.count)
        .constant("EXPERT_STRIDE", experts.stride)
        .constant("SHARING", experts.shared_input ? experts.used : 1)
        .constant("X_EACH", experts.shared_input ? 1 : experts.used);
  }
  composer.bind('u', "step", "Step")
      .flag("CLIP", spec.clip)
      .flag("EXPERTS", spec.experts ? 1 : 0)
      .constant("COLS", spec.cols)
      .constant("CAP", spec.cap)
      .constant("THREADS", spec.tiling.threads)
      .constant("ROWS_EACH", spec.tiling.rows)
      .flag("HALF_ROWS", spec.tiling.rows / 2)
      .flag("DECODES", 2 * tile_rows(spec) / spec.tiling.threads)
      .flag("TWO", 2)
      .flag("FOUR", 4)
      .flag("ALIGNED", aligned)
      .flag("LIGHT", spec.light)
      .flag("GEGLU", geglu(spec))
      .flag("SOFTCAP", spec.epilogue == Epilogue::kSoftcap);
  if (matrix) {
    composer.enable("chromium_experimental_subgroup_matrix")
        .enable("f16")
        .enable("subgroups")
        .constant("EACH", spec.tiling.rows / 4)
        .constant("GROUP_ROWS", rows_per_group(spec))
        .flag("HALVES", geglu(spec) ? 1 : 2);
  } else if (integer) {
    composer.constant("X_VECTORS", quantized_vectors(spec.dot))
        .constant("W_SCALES", two_scales ? 2u : 1u)
        .flag("TWO_SCALES", two_scales)
        .flag("OFFSETS", any_codec(spec, has_offsets))
        .flag("TWO_OFFSETS",
              any_codec(spec, [](Codec c) { return has_half_scales(c) && has_offsets(c); }));
  }
  add_segments(composer, spec.segments, spec.cols, spec.dot);
  composer.include("epilogue.wgsl").include(matrix ? "matmul_matrix.wgsl" : "matmul.wgsl");
  add_locate(composer, spec);
  add_codecs(composer, spec);
  add_up(composer, spec);
  add_store(composer, spec);
  return std::move(composer).finish(label_of(spec));
}

Groups matmul_groups(const MatmulSpec& spec, uint32_t tokens) {
  uint32_t groups = div_ceil(spec.window, rows_per_group(spec));
  for (size_t i = 0; spec.window == 0 && i < located_segments(spec); ++i)
    groups += div_ceil(spec.segments[i].rows, rows_per_group(spec));
  if (spec.experts) {
    const ExpertRows& experts = *spec.experts;
    const uint32_t tile = tile_tokens(spec.tiling, spec.dot);
    return {groups, expert_tiles({experts.all, experts.used, tile}, tokens), 1};
  }
  return {groups, div_ceil(tokens, tile_tokens(spec.tiling, spec.dot)), 1};
}

}  // namespace lapidary::kernels
