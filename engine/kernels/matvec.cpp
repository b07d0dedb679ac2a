// Chooses the cut of a matvec and writes the parts of its text that depend on the segments.
#include "engine/kernels/matvec.h"

#include <algorithm>
#include <bit>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/matvec_change.h"
#include "engine/kernels/step.h"

namespace lapidary::kernels {
namespace {

// Integer products take matrices of integer quants; one other in the group makes all of it f32.
Dot dot_of(const MatvecSpec& spec, const Variant& variant) {
  const bool integer = std::ranges::all_of(
      spec.segments, [](const Segment& s) { return has_integer_quants(s.codec); });
  return integer ? variant.dot : Dot::kF32;
}

// Values that are quantised together.
constexpr uint32_t kBlock = 16;

uint32_t group_count(const MatvecSpec& spec, const MatvecTiling& tiling) {
  if (streams(spec) == 2) return div_ceil(spec.segments[0].rows, rows_per_group(tiling));
  uint32_t groups = 0;
  for (const Segment& segment : spec.segments)
    groups += div_ceil(segment.rows, rows_per_group(tiling));
  return groups;
}

}  // namespace

// Lanes: the most, up to 32, that waste no more than an eighth of their turns. Rows: as many as
// leave a workgroup for every core of a large GPU, since all workgroups repeat the prologue.
MatvecTiling tiling_of(const MatvecSpec& spec) {
  if (spec.tiling) return *spec.tiling;
  const uint32_t units = div_ceil(spec.cols, 32);
  uint32_t lanes = 32;
  while (lanes > 1 && div_ceil(units, lanes) * lanes * 8 > units * 9) lanes /= 2;
  // Several turns a lane hide latency better than wide rows.
  if (lanes > 8 && units / lanes < 2) lanes /= 2;
  MatvecTiling tiling{.threads = 256, .lanes = lanes, .rows = 4 / streams(spec)};
  // Experts run side by side.
  const uint32_t enough = 192 / (spec.experts ? std::min(spec.experts->used, 8u) : 1);
  // Where there are more rows than that, fewer lanes: each repeats the prologue for more rows.
  while (tiling.lanes > 8 && group_count(spec, tiling) >= 2 * enough) tiling.lanes /= 2;
  // With a norm, no thread should hold more than 16 values of h, where 256 threads can do that.
  const uint32_t least =
      has_norm(spec) ? std::clamp(std::bit_ceil(div_ceil(spec.cols, 16)), 64u, 256u) : 64;
  while (group_count(spec, tiling) < enough && (tiling.rows > 1 || tiling.threads > least)) {
    if (tiling.rows > 1) {
      tiling.rows /= 2;
    } else {
      tiling.threads /= 2;
    }
  }
  return tiling;
}

MatvecTiling light_tiling(const MatvecSpec& spec) {
  const uint32_t units = div_ceil(spec.cols, 32);
  return {.threads = 128, .lanes = std::min(8u, std::bit_floor(units)), .rows = 1};
}

namespace {

// Bytes that a unit takes in the tile: f32; or bytes, and a scale and a sum a half.
uint32_t unit_bytes(Dot dot) { return dot == Dot::kF32 ? 128 : dot == Dot::kInt16 ? 80 : 48; }

uint32_t outputs(const MatvecSpec& spec, const MatvecTiling& tiling) {
  return streams(spec) * tiling.rows;
}

// Vectors of `tile` that reductions need: those of the norms, and of rows of V and U.
uint32_t reduction_vectors(const MatvecSpec& spec, const MatvecTiling& tiling) {
  return has_norm(spec) || next_groups(spec) > 0 ? tiling.threads : 1;
}

// Workgroup memory holds a tile of h, the partial sums of norms (in the tile's place where that is
// f32) and of rows, and the weights of splits. At least 32 units fit for every tiling that
// tiling_of chooses.
constexpr uint32_t kLimit = 16384;  // bytes: what every WebGPU device has
uint32_t used_bytes(const MatvecSpec& spec, const MatvecTiling& tiling, Dot dot) {
  const uint32_t slots = tiling.threads / tiling.lanes;
  uint32_t used = 512 + outputs(spec, tiling) * slots * (tiling.lanes + 1) * 4;
  if (spec.prologue == Prologue::kMerge) used += spec.heads * spec.attention.splits * 4;
  if (dot != Dot::kF32) used += reduction_vectors(spec, tiling) * 16;
  // Of what is handed over, the sums of groups: of up to 16, and no more than there are threads.
  const uint32_t handed = spec.fused.handed_rank > 0 ? tiling.threads : 0;
  return used + low_bytes(spec, tiling) + handed * 4;
}
uint32_t tile_units(const MatvecSpec& spec, const MatvecTiling& tiling, Dot dot) {
  if (spec.prologue == Prologue::kQuantized) return div_ceil(spec.cols, 32);  // there is no tile
  const uint32_t used = used_bytes(spec, tiling, dot);
  const uint32_t left = kLimit > used ? kLimit - used : 0;
  // One unit more for the odd stride.
  const uint32_t most = std::max(left / unit_bytes(dot), 1u) - 1;
  const uint32_t units = div_ceil(spec.cols, 32);
  if (most >= units) return units;
  // A lane's turns go on from tile to tile: whole rounds of lanes. And where there is room, whole
  // rounds of threads that stage half a unit each.
  const uint32_t lanes = std::max(32u, tiling.lanes);
  const uint32_t round = most >= tiling.threads / 2 ? std::max(lanes, tiling.threads / 2) : lanes;
  return std::min(units, std::max(most / round, 1u) * round);
}

void add_locate(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling) {
  const uint32_t rows = rows_per_group(tiling);
  std::string text =
      "var<private> planes: Planes;  // of the segment\n"
      "fn locate(group: u32) {\n  var at = group;\n";
  if (const uint32_t groups = next_groups(spec); groups > 0)
    text += cat("  at -= ", groups, "u;\n");
  uint32_t y_base = spec.row_offset;
  const size_t count = streams(spec) == 2 ? 1 : spec.segments.size();
  for (size_t i = 0; i < count; ++i) {
    const uint32_t groups = div_ceil(spec.segments[i].rows, rows);
    text += cat("  if (at < ", groups, "u) {\n    segment = ", i, "u;\n    segment_rows = ROWS_", i,
                ";\n    first_row = at * ", rows, "u;\n    y_base = ", y_base,
                "u;\n    planes = SEGMENT_", i, ";\n    return;\n  }\n  at -= ", groups, "u;\n");
    y_base += spec.segments[i].rows;
  }
  composer.text(text + "}\n");
}

// fetch(u) reads what unit u of this thread's rows takes; multiply(a, u, next) multiplies what was
// fetched by the activations, after it has asked for unit `next`. Once a codec: segments of the
// same codec differ in their planes only.
void add_products(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling,
                  bool ahead) {
  struct Case {
    std::string condition;  // empty: always
    Codec codec;
  };
  std::vector<Case> cases;
  for (const Codec codec : kCodecs) {
    std::string condition;
    for (size_t i = 0; i < spec.segments.size(); ++i) {
      if (spec.segments[i].codec == codec)
        condition += cat(condition.empty() ? "" : " || ", "segment == ", i, "u");
    }
    if (!condition.empty()) cases.push_back({condition, codec});
  }
  const auto per_codec = [&](const auto& statement) {
    std::string text;
    if (streams(spec) == 2) {
      for (uint32_t i = 0; i < 2 * tiling.rows; ++i) {
        const uint32_t stream = i / tiling.rows;
        text += statement(i, codec_prefix(spec.segments[stream].codec),
                          stream == 0 ? "SEGMENT_0" : "SEGMENT_1");
      }
      return text;
    }
    for (const Case& c : cases) {
      if (cases.size() > 1) text += cat("  if (", c.condition, ") {\n");
      for (uint32_t i = 0; i < tiling.rows; ++i)
        text += statement(i, codec_prefix(c.codec), "planes");
      if (cases.size() > 1) text += "  }\n";
    }
    return text;
  };
  std::string text = "fn fetch(u: u32) {\n";
  text += per_codec([&](uint32_t i, std::string_view codec, std::string_view planes) {
    return cat("  ahead_", i, " = ", codec, "_fetch(", planes, ", row_", i % tiling.rows,
               ", u);\n");
  });
  text += "}\nfn multiply(a: Activations, u: u32, next: u32) {\n";
  for (uint32_t i = 0; i < outputs(spec, tiling); ++i)
    text += cat("  let now_", i, " = ahead_", i, ";\n");
  if (ahead) text += "  fetch(next);\n";
  text += per_codec([&](uint32_t i, std::string_view codec, std::string_view planes) {
    return cat("  sum_", i, " += ", codec, "_dot(now_", i, ", ", planes, ", row_", i % tiling.rows,
               ", u, a);\n");
  });
  composer.text(text + "}\n");
}

// finished(total, row): what y holds for a row of the segment. GeGLU has two totals and is written
// out where they meet.
void add_epilogue(Composer& composer, const MatvecSpec& spec) {
  std::string value = "total";
  if (spec.epilogue == Epilogue::kGeluMul)
    value =
        cat("gelu_tanh(total) * mul[mul_row + ", spec.mul_offset, "u + y_base - ROW_OFFSET + row]");
  if (spec.epilogue == Epilogue::kSoftcap) value = "softcap(total)";
  composer.text(cat("fn finished(total: f32, row: u32) -> f32 {\n  return ", value, ";\n}\n"));
}

// Where the token's rows of the bindings begin, in elements of each: NAME_row.
void add_rows(Composer& composer, const MatvecSpec& spec, bool aligned, bool head_vectors) {
  const TokenStrides strides = spec.tokens.value_or(TokenStrides{});
  struct Row {
    std::string_view name;
    uint32_t stride;
  };
  const Row rows[] = {
      {"y", strides.y},
      {"x", aligned ? strides.input / 4 : strides.input},
      {"x_old", strides.input / 4},
      {"partial", head_vectors ? strides.input / 4 : strides.input},
      {"delta", strides.delta / 4},
      {"x_new", strides.stream / 4},
      {"residual", strides.stream / 4},
      {"stats", strides.stats / 2},
      {"mul", strides.mul},
  };
  std::string text;
  std::string find = "fn find_rows(token: u32) {\n";
  const uint32_t sharing = spec.experts && spec.experts->shared_input ? spec.experts->used : 1;
  for (const auto& [name, stride] : rows) {
    if (spec.tokens) {
      text += cat("var<private> ", name, "_row: u32;\n");
      find +=
          cat("  ", name, "_row = token",
              sharing > 1 && name != "y" ? cat(" / ", sharing, "u") : "", " * ", stride, "u;\n");
    } else {
      text += cat("const ", name, "_row = 0u;\n");
    }
  }
  const bool merge = spec.prologue == Prologue::kMerge;
  if (spec.tokens) {
    if (merge) {
      text += "var<private> step_row: u32;\n";
      find += "  step_row = token;\n";
    }
    text += find + "}\n";
  }
  if (merge) {
    text += cat("fn token_position() -> u32 { return ",
                spec.tokens ? "steps[step_row].position" : "step.position", "; }\n");
  }
  composer.text(text);
}

std::string label_of(const MatvecSpec& spec) {
  return cat("matvec ", shape_label(spec.segments, spec.cols));
}

}  // namespace

KernelSource matvec_source(const MatvecSpec& spec, const Variant& variant) {
  const MatvecTiling tiling = tiling_of(spec);
  const uint32_t units = div_ceil(spec.cols, 32);
  const Dot dot = dot_of(spec, variant);
  const uint32_t tile = tile_units(spec, tiling, dot);
  // Measured on an H100: of two streams, 192 workgroups gain 12 % and 384 lose 12 %.
  const uint32_t side_by_side = group_count(spec, tiling) * (spec.experts ? spec.experts->used : 1);
  const bool ahead = !variant.light && (streams(spec) == 1 || side_by_side <= 256);
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
  composer.bind('r', "weights", "array<vec4<u32>>")
      .bind('w', "y", spec.quantizes ? "array<u32>" : kFloats);
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
    case Prologue::kQuantized:
      composer.bind('r', "x", "array<vec4<u32>>");
      break;
  }
  if (spec.epilogue == Epilogue::kGeluMul) composer.bind('r', "mul", kFloats);
  if (spec.fused.any()) composer.bind('r', "adapter", spec.fused.buffer_type());
  if (spec.fused.next_rank > 0) composer.bind('r', "residual", kVectors);
  if (spec.experts) composer.bind('r', "routes", "array<vec2<u32>>");
  if (merge) {
    if (spec.tokens) {
      composer.bind('u', "steps", cat("array<Step, ", kMaxStepRows, ">"));
    } else {
      composer.bind('u', "step", "Step");
    }
  }

  composer.constant("COLS", spec.cols)
      .constant("THREADS", tiling.threads)
      .constant("LANES", tiling.lanes)
      .constant("ROWS", tiling.rows)
      .constant("GROUPS", group_count(spec, tiling) + next_groups(spec))
      .constant("ROW_OFFSET", spec.row_offset)
      .constant("TILE_UNITS", tile)
      .constant("TILE_STRIDE", tile | 1)
      .constant("TILE_SIZE",
                std::max(dot == Dot::kF32 ? 8 * (tile | 1) : 0, reduction_vectors(spec, tiling)))
      .constant("OUTPUTS", outputs(spec, tiling))
      .flag("PIECES", div_ceil(div_ceil(spec.cols, 16), tiling.threads))
      .flag("FOUR", 4)
      .constant("EPS", spec.eps)
      .constant("CAP", spec.cap)
      .flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .flag("TOKENS", spec.tokens ? 1 : 0)
      .flag("EXPERTS", spec.experts ? 1 : 0)
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
      .flag("MERGED_HALVES", merge && spec.head_dim % 16 == 0 && spec.cols % 32 == 0)
      .flag("AHEAD", ahead)
      .flag("WHOLE_HALVES", spec.cols % 32 == 0)
      .flag("GEGLU", spec.epilogue == Epilogue::kGeglu)
      .flag("QUANTIZED", spec.prologue == Prologue::kQuantized)
      .flag("QUANTIZES", spec.quantizes)
      .constant("Y_UNITS", output_rows(spec.segments, spec.epilogue) / 32)
      .flag("SEVERAL_TILES", tile < units)
      .flag("SOFTCAP", spec.epilogue == Epilogue::kSoftcap);
  if (merge) {
    composer.constant("HEADS", spec.heads)
        .constant("HEAD_DIM", spec.head_dim)
        .constant("WINDOW", spec.window)
        .constant("MAX_SPLITS", spec.attention.splits)
        .constant("KEYS_PER_SPLIT", spec.attention.keys);
  }
  if (spec.experts) {
    composer.constant("FIRST_EXPERT", spec.experts->first)
        .constant("EXPERT_COUNT", spec.experts->count)
        .constant("EXPERT_STRIDE", spec.experts->stride);
  }
  set_fused(composer, spec, tiling, variant);
  add_segments(composer, spec.segments, spec.cols, dot);
  add_rows(composer, spec, aligned, head_vectors);
  composer.include("epilogue.wgsl").include("matvec.wgsl");
  add_locate(composer, spec, tiling);
  add_products(composer, spec, tiling, ahead);
  add_epilogue(composer, spec);
  if (spec.fused.rank() > 0) add_fused_change(composer, spec, tiling, variant);
  return std::move(composer).finish(label_of(spec));
}

bool fits(const MatvecSpec& spec, const MatvecTiling& tiling, const Variant& variant) {
  const Dot dot = dot_of(spec, variant);
  const uint32_t units = std::max(32u, tiling.lanes) + 1;
  if (spec.quantizes && rows_per_group(tiling) % kBlock != 0) return false;
  return is_valid(tiling) && used_bytes(spec, tiling, dot) + units * unit_bytes(dot) <= kLimit;
}

std::string tuning_key(const MatvecSpec& spec, const Variant& variant) {
  return cat(label_of(spec), " ", static_cast<uint32_t>(spec.prologue),
             static_cast<uint32_t>(spec.epilogue), " ", dot_name(dot_of(spec, variant)),
             variant.subgroups ? " subgroups" : "", change_label(spec.fused));
}

uint32_t handed_pieces(const MatvecSpec& spec) { return group_count(spec, tiling_of(spec)); }

bool can_hand_over(const MatvecSpec& first, const MatvecSpec& second, const Variant& variant) {
  const MatvecTiling tiling = variant.light ? light_tiling(first) : tiling_of(first);
  const Dot dot = dot_of(first, variant);
  return first.epilogue == Epilogue::kGeglu && second.prologue == Prologue::kPlain &&
         first.row_offset == 0 && dot != Dot::kF32 && dot_of(second, variant) == dot &&
         first.segments[0].rows % 32 == 0 && rows_per_group(tiling) % kBlock == 0;
}

Groups matvec_groups(const MatvecSpec& spec, uint32_t tokens) {
  const MatvecTiling tiling = tiling_of(spec);
  const Groups groups = fold_groups(group_count(spec, tiling) + next_groups(spec));
  const uint32_t rows = spec.experts ? tokens * spec.experts->used : tokens;
  return spec.tokens ? Groups{rows, groups.x, groups.y} : groups;
}

}  // namespace lapidary::kernels
