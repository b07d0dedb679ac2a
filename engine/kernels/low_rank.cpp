#include "engine/kernels/low_rank.h"

#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kThreads = 64;  // whole blocks of 16 rows

// Vectors of 4 ranks that are fetched of a row of B ahead of their use: of most adapters all, for
// they have one rank everywhere.
uint32_t ahead_vectors(const LowRank& change) {
  constexpr uint32_t kMost = 4;
  const uint32_t rank = change.parts[0].rank;
  const bool one = std::ranges::all_of(change.parts, [&](auto& part) { return part.rank == rank; });
  return one ? std::min(rank / 4, kMost) : 0;
}

uint32_t outputs(const LowRankAddSpec& spec) {
  return spec.epilogue == Epilogue::kGeglu ? spec.change.parts[0].rows : spec.change.total_rows();
}

}  // namespace

uint32_t LowRank::total_rows() const {
  uint32_t sum = 0;
  for (const LowRankPart& part : parts) sum += part.rows;
  return sum;
}

uint64_t LowRank::row_bytes() const { return uint64_t{div_ceil(cols, 32)} * 32 * sizeof(float); }

uint64_t LowRank::a_offset(size_t part) const {
  uint64_t rows = 0;
  for (size_t i = 0; i < part; ++i) rows += parts[i].rank;
  return rows * row_bytes();
}

uint64_t LowRank::factors() const { return round_up(a_offset(parts.size()), 256); }

uint64_t LowRank::b_offset(size_t part) const {
  uint64_t floats = rank();
  for (size_t i = 0; i < part; ++i) floats += uint64_t{parts[i].rank} * parts[i].rows;
  return factors() + floats * sizeof(float);
}

namespace {

// low_row(row): where the part of a row is.
void add_rows(Composer& composer, const LowRank& change) {
  std::string text = "fn low_row(row: u32) -> LowRow {\n  var found: LowRow;\n  var i = row;\n";
  uint32_t first = 0;
  for (size_t i = 0; i < change.parts.size(); ++i) {
    const auto [rank, rows] = change.parts[i];
    const uint64_t base = (change.b_offset(i) - change.factors()) / sizeof(float);
    text +=
        cat("  if (i < ", rows, "u) {\n    found.first = ", first, "u;\n    found.rank = ", rank,
            "u;\n    found.at = ", base, "u + i;\n    found.step = ", rows,
            "u;\n    return found;\n  }\n  i -= ", rows, "u;\n");
    first += rank;
  }
  composer.text(text + "  return found;\n}\n");
}

}  // namespace

KernelSource low_rank_add_source(const LowRankAddSpec& spec) {
  const bool geglu = spec.epilogue == Epilogue::kGeglu;
  const bool quantizes = spec.quantizes != Dot::kF32;
  Composer composer;
  composer.bind('w', "y", "array<f32>")
      .bind('r', "adapter", "array<f32>")
      .bind('r', "low_sums", "array<f32>");
  if (geglu) composer.bind('w', "out", quantizes ? "array<u32>" : "array<f32>");
  if (spec.epilogue == Epilogue::kGeluMul) composer.bind('r', "mul", "array<f32>");
  composer.constant("THREADS", kThreads)
      .constant("OUTPUTS", outputs(spec))
      .constant("Y_STRIDE", spec.y_stride == 0 ? spec.change.total_rows() : spec.y_stride)
      .constant("Y_UNITS", outputs(spec) / 32)
      .constant("CAP", spec.cap)
      .flag("GEGLU", geglu)
      .flag("QUANTIZES", quantizes)
      .flag("TWO_BYTES", spec.quantizes == Dot::kInt16)
      .flag("SOFTCAP", spec.epilogue == Epilogue::kSoftcap)
      .constant("LOW_RANK", spec.change.rank())
      .constant("AHEAD", spec.light ? 0 : ahead_vectors(spec.change))
      .include("epilogue.wgsl");
  std::string value = "total";
  if (spec.epilogue == Epilogue::kSoftcap) value = "softcap(total)";
  if (spec.epilogue == Epilogue::kGeluMul) {
    value = cat("gelu_tanh(total) * mul[token * ", spec.mul_stride, "u + ", spec.mul_offset,
                "u + row]");
  }
  if (!geglu) {
    composer.text(
        cat("fn finished(total: f32, token: u32, row: u32) -> f32 {\n  return ", value, ";\n}\n"));
  }
  composer.include("low_rank_add.wgsl");
  add_rows(composer, spec.change);
  return std::move(composer).finish(
      cat("low rank ", spec.change.rank(), " x ", spec.change.total_rows()));
}

Groups low_rank_add_groups(const LowRankAddSpec& spec, uint32_t tokens) {
  return {div_ceil(outputs(spec), kThreads), tokens, 1};
}

}  // namespace lapidary::kernels
