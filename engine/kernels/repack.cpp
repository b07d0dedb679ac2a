#include "engine/kernels/repack.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {

KernelSource repack_source(const RepackSpec& spec) {
  const Codec codec = spec.codec;
  const uint32_t units = div_ceil(spec.cols, 32);
  const bool is_f32 = codec == Codec::kF32;
  const bool is_float = is_f32 || codec == Codec::kF16 || codec == Codec::kBF16;
  const bool k_scales = codec == Codec::kQ4_K || codec == Codec::kQ5_K;
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
      .flag("Q8_0", codec == Codec::kQ8_0)
      .flag("Q4_0", codec == Codec::kQ4_0)
      .flag("Q5_0", codec == Codec::kQ5_0)
      .flag("HALF_SCALES", codec == Codec::kQ8_0 || codec == Codec::kQ4_0 || codec == Codec::kQ5_0)
      .flag("SUPER", k_scales || codec == Codec::kQ6_K)
      .flag("Q4_K", codec == Codec::kQ4_K)
      .flag("Q5_K", codec == Codec::kQ5_K)
      .flag("K_SCALES", k_scales)
      .flag("Q6_K", codec == Codec::kQ6_K)
      .include("repack.wgsl");
  return std::move(composer).finish(cat("repack ", codec_prefix(codec), " ", spec.cols));
}

Groups repack_groups(const RepackSpec& spec, uint32_t n_rows) {
  constexpr uint64_t kThreads = 64;
  return fold_groups((uint64_t{n_rows} * div_ceil(spec.cols, 32) + kThreads - 1) / kThreads);
}

}  // namespace lapidary::kernels
