// Low-rank changes (low_rank.h) that the kernels of one token make by themselves, without a
// dispatch more: y = W h + B (A h), where A h is ready before h is.
//
// A product's input is linear in what the product before it gave, but for two numbers. With the
// norm site between them (Prologue::kResidualNorm),
//   h = gain * pre * scale * (x_old + factor * post * delta),   delta = W' z (+ its own change),
//   A h = gain * scale * (U + factor * V),   U = (A pre) x_old,   V = (A pre post) delta,
// and V = (A pre post W') z, so that the product before computes U and V as rows of its own: those
// of the small matrix A pre post W', made once, and of A pre. What is not linear is handed over:
// attention and gate/up leave, for each of their workgroups, the part of the next product's A h
// that comes from the workgroup's outputs.
#pragma once

#include <cstdint>
#include <vector>

namespace lapidary::kernels {

// Of one product, all parts and adapters together.
inline constexpr uint32_t kMaxFusedRank = 128;

// What an adapter changes of one matrix of a product.
struct LowRankPart {
  uint32_t rank = 0;  // 0: the matrix is not changed
  uint32_t rows = 0;  // of the matrix
};
inline uint32_t total_rank(const std::vector<LowRankPart>& parts) {
  uint32_t sum = 0;
  for (const LowRankPart& part : parts) sum += part.rank;
  return sum;
}

// What a kernel makes of it; the parts say what changes its own rows, `next` whose U and V it
// computes, `handed` whose A h it leaves in pieces. All ranks are whole eights: rows and columns of
// zeros fill them up.
struct FusedChange {
  std::vector<LowRankPart> parts;  // of the product, a segment each; none: it is not changed
  uint32_t cols = 0;               // of the product; with `next` a multiple of 32
  uint32_t pieces = 0;             // of its own A h, where those were handed over by gate/up
  uint32_t next_rank = 0;          // of the next product, all parts
  uint32_t hidden = 0;             // its columns, a multiple of 32
  uint32_t handed_rank = 0;        // of the product that takes this one's output
  uint32_t handed_cols = 0;        // of that product
  bool bf16 = false;               // how values lie in the buffer; else f32

  uint32_t rank() const { return total_rank(parts); }
  bool any() const { return rank() + next_rank + handed_rank > 0; }

  // The buffer `adapter`, offsets in values, whole eights; V's and U's are multiples of 64.
  //   B of each part [rows][rank of the part], times the factors of an adapter's scale
  //   V [next_rank][cols], U [next_rank][hidden], mixed [next_rank][rank]: (A pre post) B
  //   handed [handed_cols][handed_rank]       A, transposed
  // Of bf16 values k and k + 4 of an eight share a word, k in its lower half. They are of 8 bits:
  // a change is off by about 0.1 % of itself, for kernels whose products are not exact either.
  uint64_t b_offset(size_t part) const {
    uint64_t at = 0;
    for (size_t i = 0; i < part; ++i) at += uint64_t{parts[i].rank} * parts[i].rows;
    return at;
  }
  uint64_t v_offset() const { return (b_offset(parts.size()) + 63) / 64 * 64; }
  uint64_t u_offset() const { return (v_offset() + uint64_t{next_rank} * cols + 63) / 64 * 64; }
  uint64_t mixed_offset() const { return u_offset() + uint64_t{next_rank} * hidden; }
  uint64_t handed_offset() const { return mixed_offset() + uint64_t{next_rank} * rank(); }
  uint64_t values() const { return handed_offset() + uint64_t{handed_rank} * handed_cols; }
  uint64_t bytes() const { return values() * (bf16 ? 2 : 4); }
  const char* buffer_type() const { return bf16 ? "array<vec4<u32>>" : "array<vec4<f32>>"; }
};

// What such kernels pass on lies behind their outputs, in floats: V of the next product, and from
// kLowU on its U; behind gate/up's the pieces [workgroups][rank] of down's A h; behind attention's
// partial sums the pieces [splits][heads][rank] of the output's.
inline constexpr uint32_t kLowU = kMaxFusedRank;
inline constexpr uint32_t kLowFloats = 2 * kMaxFusedRank;

// Threads of a workgroup that share its outputs, for each eight ranks of what it hands over.
constexpr uint32_t handers(uint32_t rank, uint32_t threads, uint32_t outputs) {
  const uint32_t most = threads * 8 / rank;
  return most < 1 ? 1 : most > outputs ? outputs : most;
}

// Groups in which the sums of so many of them are summed first, so that no thread sums up many; 1:
// at once.
constexpr uint32_t handed_groups(uint32_t rank, uint32_t threads, uint32_t handing) {
  const uint32_t groups = threads / rank < 16 ? threads / rank : 16;
  return groups >= 4 && handing >= 2 * groups ? groups : 1;
}

}  // namespace lapidary::kernels
