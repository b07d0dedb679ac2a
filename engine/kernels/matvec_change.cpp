// Writes the parts of the matvec's text that depend on a low-rank change.
#include "engine/kernels/matvec_change.h"

#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

// Threads that sum up pieces, for each quad of the ranks. Attention's are few, and its splits need
// workgroup memory too.
uint32_t gatherers(const MatvecSpec& spec, const MatvecTiling& tiling) {
  const uint32_t threads = spec.prologue == Prologue::kMerge ? tiling.threads / 2 : tiling.threads;
  return std::max(threads * 4 / spec.fused.rank(), 1u);
}
// Groups that their sums are summed in first; as many as there are: no need to.
uint32_t gather_groups(uint32_t gathering) {
  return gathering <= 8 ? gathering : div_ceil(gathering, 8);
}
bool gathers(const MatvecSpec& spec) { return spec.fused.rank() > 0 && !has_norm(spec); }
// Floats for sums of what it hands over.
uint32_t low_stage(const MatvecSpec& spec, const MatvecTiling& tiling) {
  const uint32_t handed = spec.fused.handed_rank;
  return handed > 0 ? handed * handers(handed, tiling.threads, rows_per_group(tiling)) : 0;
}

}  // namespace

uint32_t low_bytes(const MatvecSpec& spec, const MatvecTiling& tiling) {
  const uint32_t rank = spec.fused.rank();
  uint32_t floats = rank;
  if (gathers(spec)) {
    const uint32_t gathering = gatherers(spec, tiling);
    const uint32_t groups = gather_groups(gathering);
    floats += rank * (groups < gathering ? gathering + groups : groups);
  }
  return (floats + low_stage(spec, tiling)) * 4;
}

namespace {

// Pairs of ranks (adapter.wgsl) of the part that has most.
uint32_t most_pairs(const FusedChange& fused) {
  uint32_t rank = 0;
  for (const LowRankPart& part : fused.parts) rank = std::max(rank, part.rank);
  return rank / 2;
}
// Lanes that share a pair of A h, where that is sums of groups.
uint32_t low_shares(const MatvecSpec& spec, const MatvecTiling& tiling) {
  if (!gathers(spec)) return 1;
  return std::clamp(tiling.lanes / most_pairs(spec.fused), 1u,
                    gather_groups(gatherers(spec, tiling)));
}

// change_at, change_first, change_pairs: by the part, where B's rows and A h's ranks begin and how
// many there are, in pairs.
void add_change_places(Composer& composer, const FusedChange& fused) {
  std::string at = "fn change_at(part: u32, row: u32) -> u32 {\n";
  std::string first = "fn change_first(part: u32) -> u32 {\n";
  std::string count = "fn change_pairs(part: u32) -> u32 {\n";
  uint32_t before = 0;
  for (size_t i = 0; i < fused.parts.size(); ++i) {
    const uint32_t pairs = fused.parts[i].rank / 2;
    const std::string when =
        i + 1 < fused.parts.size() ? cat("  if (part == ", i, "u) { return ") : "  { return ";
    at += cat(when, fused.b_offset(i) / 2, "u + row * ", pairs, "u; }\n");
    first += cat(when, before, "u; }\n");
    count += cat(when, pairs, "u; }\n");
    before += pairs;
  }
  composer.text(cat(at, "}\n", first, "}\n", count, "}\n"));
}

// fetch_change(lane) reads the pairs of B that a lane multiplies first, add_change(lane) multiplies
// all of the lane's: of each row every LANES-th, or with shares of A h each of them by several
// lanes.
void add_changes(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling,
                 bool ahead) {
  const uint32_t shares = low_shares(spec, tiling);
  const uint32_t items = most_pairs(spec.fused) * shares;
  std::string fetch = "fn fetch_change(lane: u32) {\n";
  std::string add = "fn add_change(lane: u32) {\n";
  std::string ahead_values;
  for (uint32_t s = 0; s < streams(spec); ++s) {
    const std::string part = streams(spec) == 2 ? cat(s, "u") : "segment";
    const auto each = [&](const auto& statement) {
      std::string text;
      for (uint32_t r = 0; r < tiling.rows; ++r) text += statement(s * tiling.rows + r, r);
      return text;
    };
    const auto pair_at = [&](uint32_t row) {
      return cat("adapter_pair(change_at(", part, ", row_", row, ") + j)");
    };
    const auto low = cat("      let a = low_pair(change_first(", part, ") + j, i / pairs);\n");
    fetch += cat("  {\n    let j = lane % max(change_pairs(", part, "), 1u);\n",
                 each([&](uint32_t i, uint32_t row) {
                   return cat("    change_", i, " = ", pair_at(row), ";\n");
                 }),
                 "  }\n");
    add += cat("  {\n    let pairs = change_pairs(", part, ");\n    var i = lane;\n");
    if (ahead) {
      add += cat("    if (i < pairs * LOW_SHARES) {\n      let j = i % pairs;\n", low,
                 each([](uint32_t i, uint32_t) {
                   return cat("      sum_", i, " += dot(pair_values(change_", i, "), a);\n");
                 }),
                 "    }\n    i += LANES;\n");
      ahead_values +=
          each([](uint32_t i, uint32_t) { return cat("var<private> change_", i, ": Pair;\n"); });
    }
    if (!ahead || items > tiling.lanes) {
      add += cat("    for (; i < pairs * LOW_SHARES; i += LANES) {\n      let j = i % pairs;\n",
                 low, each([&](uint32_t i, uint32_t row) {
                   return cat("      sum_", i, " += dot(pair_values(", pair_at(row), "), a);\n");
                 }),
                 "    }\n");
    }
    add += "  }\n";
  }
  composer.constant("LOW_SHARES", shares);
  if (ahead) composer.text(cat(ahead_values, fetch, "}\n"));
  composer.text(cat(add, "}\n"));
}

// How A h is put together from pieces.
void set_gathering(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling,
                   const Variant& variant) {
  const uint32_t gathering = gatherers(spec, tiling);
  const uint32_t groups = gather_groups(gathering);
  // Of gate/up's pieces so many for each thread without a loop, and one that not all threads have.
  constexpr uint32_t kMost = 16;
  const uint32_t whole = spec.fused.pieces / gathering;
  const bool merge = spec.prologue == Prologue::kMerge;
  const bool unrolls = !variant.light && whole <= kMost;
  composer.constant("GATHERERS", gathering)
      .constant("GATHER_GROUPS", groups)
      .flag("GATHERS_TWICE", groups < gathering)
      .constant("GATHERED", variant.light ? 0
                            : merge       ? 1
                                          : std::min(whole, kMost))
      .flag("GATHERS_LAST", unrolls && spec.fused.pieces % gathering != 0)
      .flag("GATHERS_MORE", !unrolls);
}

}  // namespace

void set_fused(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling,
               const Variant& variant) {
  const FusedChange& fused = spec.fused;
  const auto eights = [](uint64_t values) { return static_cast<uint32_t>(values / 8); };
  composer.flag("FUSED", fused.any()).flag("ADAPTER_BF16", fused.bf16);
  if (const uint32_t stage = low_stage(spec, tiling); stage > 0) {
    composer.constant("LOW_STAGE", stage);
  } else {
    composer.flag("LOW_STAGE", 0);
  }
  composer.flag("KEEPS_VALUES", spec.quantizes || fused.handed_rank > 0);
  if (fused.rank() > 0) {
    composer.constant("FUSED_RANK", fused.rank())
        .flag("CHANGE_AHEAD", !variant.light)
        .constant("PIECES", fused.pieces)
        .constant("PARTIAL_LOW", spec.attention.splits * spec.cols / 4);
    if (gathers(spec)) set_gathering(composer, spec, tiling, variant);
  } else {
    composer.flag("FUSED_RANK", 0);
  }
  if (fused.next_rank > 0) {
    composer.constant("NEXT_RANK", fused.next_rank)
        .constant("NEXT_BEHIND", output_rows(spec.segments, spec.epilogue))
        .constant("NEXT_EIGHTS", fused.hidden / 8)
        .flag("NEXT_TURNS",
              variant.light ? 0 : std::min(div_ceil(fused.hidden / 8, tiling.threads), 4u))
        .constant("NEXT_V", eights(fused.v_offset()))
        .constant("NEXT_U", eights(fused.u_offset()))
        .constant("NEXT_MIXED", eights(fused.mixed_offset()));
  } else {
    composer.flag("NEXT_RANK", 0);
  }
  if (fused.handed_rank > 0) {
    const uint32_t handing = handers(fused.handed_rank, tiling.threads, rows_per_group(tiling));
    const uint32_t groups = handed_groups(fused.handed_rank, tiling.threads, handing);
    const uint32_t turns = div_ceil(rows_per_group(tiling), handing);
    composer.constant("HANDED_RANK", fused.handed_rank)
        .constant("HANDED_ROWS", rows_per_group(tiling))
        .constant("HANDED", eights(fused.handed_offset()))
        .constant("HANDED_BEHIND", output_rows(spec.segments, spec.epilogue))
        .constant("HANDERS", handing)
        .constant("HANDED_GROUPS", groups)
        .flag("HANDED_TWICE", groups > 1)
        .constant("HANDED_AHEAD", variant.light ? 0 : std::min(turns, 8u));
  } else {
    composer.flag("HANDED_RANK", 0);
  }
  composer.constant("LOW_U", kLowU);
}

void add_fused_change(Composer& composer, const MatvecSpec& spec, const MatvecTiling& tiling,
                      const Variant& variant) {
  add_change_places(composer, spec.fused);
  add_changes(composer, spec, tiling, !variant.light);
}

std::string change_label(const FusedChange& fused) {
  if (!fused.any()) return "";
  std::string text = " change";
  for (const LowRankPart& part : fused.parts) text += cat(" ", part.rank);
  if (fused.next_rank > 0) text += cat(" next ", fused.next_rank);
  if (fused.handed_rank > 0) text += cat(" handed ", fused.handed_rank);
  return text;
}

}  // namespace lapidary::kernels
