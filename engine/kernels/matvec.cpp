// Chooses the cut of a matvec and writes the parts of its text that depend on the segments.
#include "engine/kernels/matvec.h"

#include <algorithm>
#include <bit>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/attention.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kWorkgroupBytes = 16384;

bool has_norm(const MatvecSpec& spec) {
  return spec.prologue == Prologue::kNorm || spec.prologue == Prologue::kResidualNorm;
}

// Integer products take matrices of integer quants; one other in the group makes all of it f32.
Dot dot_of(const MatvecSpec& spec, const Variant& variant) {
  const bool integer = std::ranges::all_of(
      spec.segments, [](const Segment& s) { return has_integer_quants(s.codec); });
  return integer ? variant.dot : Dot::kF32;
}

// Gate and up are summed by the same threads.
uint32_t streams(const MatvecSpec& spec) { return spec.epilogue == Epilogue::kGeglu ? 2 : 1; }

uint32_t rows_per_group(const MatvecTiling& tiling) {
  return tiling.threads / tiling.lanes * tiling.rows;
}

uint32_t group_count(const MatvecSpec& spec, const MatvecTiling& tiling) {
  if (streams(spec) == 2) return div_ceil(spec.segments[0].rows, rows_per_group(tiling));
  uint32_t groups = 0;
  for (const Segment& segment : spec.segments)
    groups += div_ceil(segment.rows, rows_per_group(tiling));
  return groups;
}

// Lanes: the most, up to 32, that waste no more than an eighth of their turns. Rows: as many as
// leave a workgroup for every core of a large GPU, since all workgroups repeat the prologue.
MatvecTiling choose_tiling(const MatvecSpec& spec) {
  if (spec.tiling) return *spec.tiling;
  const uint32_t units = div_ceil(spec.cols, 32);
  uint32_t lanes = 32;
  while (lanes > 1 && div_ceil(units, lanes) * lanes * 8 > units * 9) lanes /= 2;
  // Several turns a lane hide latency better than wide rows.
  if (lanes > 8 && units / lanes < 2) lanes /= 2;
  MatvecTiling tiling{.threads = 256, .lanes = lanes, .rows = 4 / streams(spec)};
  constexpr uint32_t kEnough = 192;
  while (group_count(spec, tiling) < kEnough && (tiling.rows > 1 || tiling.threads > 64)) {
    if (tiling.rows > 1) {
      tiling.rows /= 2;
    } else {
      tiling.threads /= 2;
    }
  }
  return tiling;
}

}  // namespace

MatvecTiling light_tiling(const MatvecSpec& spec) {
  const uint32_t units = div_ceil(spec.cols, 32);
  return {.threads = 128, .lanes = std::min(8u, std::bit_floor(units)), .rows = 1};
}

namespace {

// Bytes that a unit takes in the tile: f32; or bytes, and a scale and a sum a half.
uint32_t unit_bytes(Dot dot) { return dot == Dot::kF32 ? 128 : dot == Dot::kInt16 ? 80 : 48; }

// Vectors of workgroup memory that the reductions need.
uint32_t reduction_vectors(const MatvecSpec& spec, const MatvecTiling& tiling) {
  return div_ceil(streams(spec) * tiling.rows, 4) * tiling.threads;
}

// Workgroup memory is a tile of h, the reduction's partial sums (in the same place where the tile is
// f32) and the weights of splits.
uint32_t tile_units(const MatvecSpec& spec, const MatvecTiling& tiling, Dot dot) {
  constexpr uint32_t kOther = 512;
  uint32_t left = kWorkgroupBytes - kOther;
  if (spec.prologue == Prologue::kMerge) left -= spec.heads * spec.max_splits * 4;
  if (dot != Dot::kF32) left -= reduction_vectors(spec, tiling) * 16;
  // One unit more for the odd stride.
  const uint32_t most = std::min(left / unit_bytes(dot) - 1, 96u) / 32 * 32;
  return std::min(div_ceil(spec.cols, 32), most);
}

// The weights of one dot product per row: acc component i of sums_g.
std::string sum_name(uint32_t index) {
  constexpr std::string_view kComponents = "xyzw";
  return cat("sums_", index / 4, ".", kComponents[index % 4]);
}

void add_locate(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling) {
  const uint32_t rows = rows_per_group(tiling);
  std::string text = "fn locate(group: u32) {\n  var at = group;\n";
  uint32_t y_base = spec.row_offset;
  const size_t count = streams(spec) == 2 ? 1 : spec.segments.size();
  for (size_t i = 0; i < count; ++i) {
    const uint32_t groups = div_ceil(spec.segments[i].rows, rows);
    text += cat("  if (at < ", groups, "u) {\n    segment = ", i, "u;\n    segment_rows = ROWS_", i,
                ";\n    first_row = at * ", rows, "u;\n    y_base = ", y_base,
                "u;\n    return;\n  }\n  at -= ", groups, "u;\n");
    y_base += spec.segments[i].rows;
  }
  composer.text(text + "}\n");
}

// The loop over a tile's units, once a codec: segments of the same codec differ in their planes
// only.
void add_accumulate(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling) {
  std::string text =
      "fn accumulate(lane: u32, first: u32) {\n"
      "  let count = min(TILE_UNITS, UNITS - first);\n";
  const auto loop = [&](std::string_view body) {
    text += cat("    for (var u = lane; u < count; u += LANES) {\n      let a = activations(u);\n",
                body, "    }\n");
  };
  const auto dots = [&](Codec codec, std::string_view planes, uint32_t stream) {
    std::string body;
    for (uint32_t r = 0; r < tiling.rows; ++r) {
      body += cat("      ", sum_name(stream * tiling.rows + r), " += ", codec_prefix(codec),
                  "_dot(", planes, ", row_", r, ", first + u, a);\n");
    }
    return body;
  };
  if (streams(spec) == 2) {
    loop(dots(spec.segments[0].codec, "SEGMENT_0", 0) +
         dots(spec.segments[1].codec, "SEGMENT_1", 1));
  } else {
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
      if (chosen.empty()) continue;
      text += cat("  if (", condition, ") {\n", chosen);
      loop(dots(codec, "planes", 0));
      text += "  }\n";
    }
  }
  composer.text(text + "}\n");
}

void add_store(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling) {
  std::string text = "fn store(slot: u32) {\n";
  for (uint32_t r = 0; r < tiling.rows; ++r) {
    const std::string sum = sum_name(r);
    std::string value;
    switch (spec.epilogue) {
      case Epilogue::kStore:
        value = sum;
        break;
      case Epilogue::kGeglu:
        value = cat("gelu_tanh(", sum, ") * ", sum_name(tiling.rows + r));
        break;
      case Epilogue::kGeluMul:
        value =
            cat("gelu_tanh(", sum, ") * mul[", spec.mul_offset, "u + y_base - ROW_OFFSET + row]");
        break;
      case Epilogue::kSoftcap:
        value = cat("softcap(", sum, ")");
        break;
    }
    text += cat("  {\n    let row = first_row + ", r, "u * SLOTS + slot;\n",
                "    if (row < segment_rows) { y[y_base + row] = ", value, "; }\n  }\n");
  }
  composer.text(text + "}\n");
}

std::string label_of(const MatvecSpec& spec) {
  std::string label = "matvec";
  for (const Segment& segment : spec.segments)
    label += cat(" ", codec_prefix(segment.codec), " ", segment.rows);
  return cat(label, " x ", spec.cols);
}

}  // namespace

KernelSource matvec_source(const MatvecSpec& spec, const Variant& variant) {
  const MatvecTiling tiling = choose_tiling(spec);
  const uint32_t units = div_ceil(spec.cols, 32);
  const Dot dot = dot_of(spec, variant);
  const uint32_t tile = tile_units(spec, tiling, dot);
  const uint32_t sum_vectors = div_ceil(streams(spec) * tiling.rows, 4);
  const bool aligned = spec.cols % 4 == 0;
  const bool merge = spec.prologue == Prologue::kMerge;
  const bool has_post = spec.prologue == Prologue::kResidualNorm && spec.has_post;
  const bool has_pre = spec.prologue == Prologue::kNorm || spec.has_pre;
  const bool head_vectors = merge && spec.head_dim % 4 == 0;
  const uint32_t log_threads = static_cast<uint32_t>(std::countr_zero(tiling.threads));
  constexpr std::string_view kVectors = "array<vec4<f32>>";
  constexpr std::string_view kFloats = "array<f32>";

  Composer composer;
  if (variant.subgroups) composer.enable("subgroups");
  composer.bind('r', "weights", "array<vec4<u32>>").bind('w', "y", kFloats);
  switch (spec.prologue) {
    case Prologue::kPlain:
      composer.bind('r', "x", aligned ? kVectors : kFloats);
      break;
    case Prologue::kNorm:
      composer.bind('r', "x", kVectors).bind('r', "site", kVectors);
      break;
    case Prologue::kResidualNorm:
      composer.bind('r', "x_old", kVectors)
          .bind('r', "delta", kVectors)
          .bind('r', "site", kVectors)
          .bind('w', "x_new", kVectors);
      break;
    case Prologue::kMerge:
      composer.bind('r', "partial", head_vectors ? kVectors : kFloats)
          .bind('r', "stats", "array<vec2<f32>>");
      break;
  }
  if (spec.epilogue == Epilogue::kGeluMul) composer.bind('r', "mul", kFloats);
  if (merge) composer.bind('u', "step", "Step");

  composer.constant("COLS", spec.cols)
      .constant("THREADS", tiling.threads)
      .constant("LANES", tiling.lanes)
      .constant("ROWS", tiling.rows)
      .constant("GROUPS", group_count(spec, tiling))
      .constant("ROW_OFFSET", spec.row_offset)
      .constant("TILE_UNITS", tile)
      .constant("TILE_STRIDE", tile | 1)
      .constant("TILE_SIZE", std::max(dot == Dot::kF32 ? 8 * (tile | 1) : 0,
                                      reduction_vectors(spec, tiling)))
      .constant("SUM_VECTORS", sum_vectors)
      .constant("EPS", spec.eps)
      .constant("CAP", spec.cap)
      .flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .flag("LOG_SHUFFLES", std::min(log_threads, 7u))
      .flag("LOG_LANES", std::min(static_cast<uint32_t>(std::countr_zero(tiling.lanes)), 7u))
      .flag("PLAIN", spec.prologue == Prologue::kPlain)
      .flag("MERGE", merge)
      .flag("NORM", has_norm(spec))
      .flag("RESIDUAL", spec.prologue == Prologue::kResidualNorm)
      .flag("HAS_POST", has_post)
      .flag("HAS_PRE", has_pre)
      .flag("REDUCED", has_post || has_pre)
      .flag("ALIGNED", aligned)
      .flag("HEAD_VECTORS", head_vectors)
      .flag("WHOLE_UNITS", spec.cols % 32 == 0)
      .flag("SEVERAL_TILES", tile < units)
      .flag("SOFTCAP", spec.epilogue == Epilogue::kSoftcap);
  if (merge) {
    composer.constant("HEADS", spec.heads)
        .constant("HEAD_DIM", spec.head_dim)
        .constant("WINDOW", spec.window)
        .constant("MAX_SPLITS", spec.max_splits)
        .constant("KEYS_PER_SPLIT", kKeysPerSplit);
  }
  add_segments(composer, spec.segments, spec.cols, dot);
  composer.include("epilogue.wgsl").include("matvec.wgsl");
  add_locate(composer, spec, tiling);
  add_accumulate(composer, spec, tiling);
  add_store(composer, spec, tiling);
  return std::move(composer).finish(label_of(spec));
}

uint32_t output_rows(const MatvecSpec& spec) {
  return streams(spec) == 2 ? spec.segments[0].rows : total_rows(spec.segments);
}

Groups matvec_groups(const MatvecSpec& spec) {
  return fold_groups(group_count(spec, choose_tiling(spec)));
}

}  // namespace lapidary::kernels
