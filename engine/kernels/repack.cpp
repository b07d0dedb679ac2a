#include "engine/kernels/repack.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {

namespace {

// Where blocks of 32 have their nibbles, in bytes; 0: they have none, or are longer.
uint32_t nibbles_at(Codec codec) {
  switch (codec) {
    case Codec::kMXFP4:
      return 1;
    case Codec::kQ4_0:
    case Codec::kIQ4_NL:
      return 2;
    case Codec::kQ4_1:
      return 4;
    case Codec::kQ5_0:
      return 6;
    case Codec::kQ5_1:
      return 8;
    default:
      return 0;
  }
}

}  // namespace

KernelSource repack_source(const RepackSpec& spec) {
  const Codec codec = spec.codec;
  const uint32_t units = div_ceil(spec.cols, 32);
  const bool is_f32 = codec == Codec::kF32;
  const bool is_float = is_f32 || codec == Codec::kF16 || codec == Codec::kBF16;
  const bool k_scales = codec == Codec::kQ4_K || codec == Codec::kQ5_K;
  const bool scale_and_min = codec == Codec::kQ4_1 || codec == Codec::kQ5_1;
  const uint32_t block = gguf::tensor_type_info(tensor_type(codec)).block_elements;
  const uint32_t fifth_at = codec == Codec::kQ5_0 ? 2 : codec == Codec::kQ5_1 ? 4 : 0;
  const PlaneWords words = plane_words(codec, spec.cols);
  Composer composer;
  composer.bind('r', "raw", "array<u32>")
      .bind('w', "packed", "array<u32>")
      .bind('u', "params", "Params")
      .constant("UNITS", units)
      .constant("QUANT_WORDS", words.quants)
      .constant("HIGH_WORDS", words.high)
      .constant("SCALE_WORDS", words.scales)
      .constant("DELTA_WORDS", words.deltas)
      .constant("SUPERS", words.supers / 4)
      .constant("ROW_BYTES", static_cast<uint32_t>(file_row_bytes(codec, spec.cols)))
      .constant("BLOCK_BYTES", gguf::tensor_type_info(tensor_type(codec)).block_bytes)
      .constant("UNIT_WORDS", is_f32 ? 32u : 16u)
      .flag("FLOAT", is_float)
      .constant("NIBBLES_AT", nibbles_at(codec))
      .constant("FIFTH_AT", fifth_at)
      .flag("BLOCKS_OF_32", block == 32)
      .flag("Q8_0", codec == Codec::kQ8_0)
      .flag("SCALE_AND_MIN", scale_and_min)
      .flag("BYTE_SCALES", codec == Codec::kMXFP4)
      .flag("HALF_SCALES", block == 32 && !scale_and_min && codec != Codec::kMXFP4)
      .flag("SUPER", block == 256)
      .flag("Q2_K", codec == Codec::kQ2_K)
      .flag("Q3_K", codec == Codec::kQ3_K)
      .flag("Q4_K", codec == Codec::kQ4_K)
      .flag("Q5_K", codec == Codec::kQ5_K)
      .flag("K_SCALES", k_scales)
      .flag("Q6_K", codec == Codec::kQ6_K)
      .flag("IQ4_XS", codec == Codec::kIQ4_XS)
      .include("repack.wgsl");
  return std::move(composer).finish(cat("repack ", codec_prefix(codec), " ", spec.cols));
}

Groups repack_groups(const RepackSpec& spec, uint32_t n_rows) {
  constexpr uint64_t kThreads = 64;
  return fold_groups((uint64_t{n_rows} * div_ceil(spec.cols, 32) + kThreads - 1) / kThreads);
}

}  // namespace lapidary::kernels
