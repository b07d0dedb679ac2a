// How weights lie in GPU memory. A matrix [rows, cols] is repacked into planes: quants apart from
// scales, so that neighbouring threads read neighbouring 16-byte vectors. One unit is 32
// consecutive elements of a row.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/error.h"
#include "engine/gguf/tensor_type.h"

namespace lapidary::kernels {

// The block formats with a WGSL codec (wgsl/codec_*.wgsl).
enum class Codec : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4
};
inline constexpr Codec kCodecs[] = {Codec::kF32,  Codec::kF16,    Codec::kBF16,   Codec::kQ8_0,
                                    Codec::kQ4_0, Codec::kQ4_1,   Codec::kQ5_0,   Codec::kQ5_1,
                                    Codec::kQ2_K, Codec::kQ3_K,   Codec::kQ4_K,   Codec::kQ5_K,
                                    Codec::kQ6_K, Codec::kIQ4_NL, Codec::kIQ4_XS, Codec::kMXFP4};

// nullopt for a type that the GPU cannot decode.
std::optional<Codec> codec_for(gguf::TensorType type);
gguf::TensorType tensor_type(Codec codec);
// Whether values are small integers times scales: what integer products can multiply.
constexpr bool has_integer_quants(Codec codec) {
  return codec != Codec::kF32 && codec != Codec::kF16 && codec != Codec::kBF16;
}
// Whether the halves of a unit have scales (and minima) of their own.
constexpr bool has_half_scales(Codec codec) {
  return codec == Codec::kQ2_K || codec == Codec::kQ3_K || codec == Codec::kQ6_K;
}
// Whether values are scale * quant + offset, with an offset that is stored.
constexpr bool has_offsets(Codec codec) {
  return codec == Codec::kQ4_1 || codec == Codec::kQ5_1 || codec == Codec::kQ2_K ||
         codec == Codec::kQ4_K || codec == Codec::kQ5_K;
}
// The prefix of the codec's WGSL functions: "q4_k".
std::string_view codec_prefix(Codec codec);

// 32-bit words that a row takes in each plane; the planes follow each other in this order, each
// starting at a multiple of 16 bytes. A codec has those it needs:
//   F32          quants 32 words a unit (rows padded with zeros to whole units)
//   F16 BF16     quants 16 words a unit (the same)
//   Q8_0         quants 8 words a unit (i8 in order); scales f16 d a unit
//   Q4_0 IQ4_NL  quants 4 words a unit (byte j: element j low, j + 16 high); scales f16 d a unit
//   Q4_1         quants as Q4_0; scales f16 d, f16 m a unit
//   Q5_0         as Q4_0; high 1 word a unit: bit 8 j + k is bit 4 of element 4 k + j
//   Q5_1         quants and high as Q5_0; scales as Q4_1
//   Q2_K         quants 2 words a unit: bits 8 j + 2 k (2 bits) of word h are element
//                16 h + 4 k + j; scales 2 bytes a unit (scale low, min high, one a half);
//                deltas f16 d, f16 dmin a 256
//   Q3_K         quants as Q2_K (the lower bits); high as Q5_0 (bit 2); supers 4 words a 256:
//                f16 d, two bytes of nothing, 12 bytes as in the file
//   Q4_K         quants as Q4_0; supers 4 words a 256: f16 d, f16 dmin, 12 bytes as in the file
//   Q5_K         quants and high as Q5_0; supers as Q4_K
//   Q6_K         quants as Q4_0; high 2 words a unit: as Q2_K's quants, of bits 4-5; scales 2 i8 a
//                unit; deltas f16 d a 256
//   IQ4_XS       quants as Q4_0; deltas 2 words a 256: f16 d and the scales' high bits, low nibbles
//   MXFP4        quants as Q4_0; scales 1 byte a unit
// Rows of planes of halves and bytes are padded to whole words.
struct PlaneWords {
  uint32_t quants = 0;
  uint32_t high = 0;
  uint32_t scales = 0;
  uint32_t deltas = 0;
  uint32_t supers = 0;
};
PlaneWords plane_words(Codec codec, uint32_t cols);

// Where the planes of one matrix start: `quants` and `supers` in 16-byte vectors, the others in
// words, all from the start of the matrix.
struct PackedLayout {
  uint64_t quants = 0;
  uint64_t high = 0;
  uint64_t scales = 0;
  uint64_t deltas = 0;
  uint64_t supers = 0;
  uint64_t bytes = 0;  // of the whole matrix, a multiple of 256
};
PackedLayout packed_layout(Codec codec, uint32_t rows, uint32_t cols);

// Bytes of the repacked matrix: a multiple of 256, within 3 % of the file's for real shapes.
uint64_t packed_bytes(Codec codec, uint32_t rows, uint32_t cols);

// Bytes of one row as the file has it.
uint64_t file_row_bytes(Codec codec, uint32_t cols);

// kInvalidArgument unless rows and cols are at least 1, cols is a whole number of the codec's
// blocks, and the repacked matrix stays below 4 GiB. Every other function here assumes that this
// held.
Status check_matrix(Codec codec, uint64_t rows, uint64_t cols);

// One matrix of a group. A group is the matrices that one dispatch computes (q, k, v; gate, up):
// the same cols, in one buffer, each with its own codec.
struct Segment {
  Codec codec;
  uint32_t rows;
  uint32_t offset = 0;  // bytes from the start of the bound range, a multiple of 256
  // Where it is rows [first_row, first_row + rows) of a larger matrix, the rows of that one; what
  // `offset` says is where that one starts.
  uint32_t matrix_rows = 0;
  uint32_t first_row = 0;
};
uint32_t total_rows(std::span<const Segment> segments);
// "q4_k 2048 q4_k 256 x 1536": codecs and rows of the segments, and their columns.
std::string shape_label(std::span<const Segment> segments, uint32_t cols);

}  // namespace lapidary::kernels
