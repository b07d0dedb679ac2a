#include "engine/kernels/layout.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {
namespace {

struct CodecInfo {
  Codec codec;
  gguf::TensorType type;
  std::string_view prefix;
};
constexpr CodecInfo kInfos[] = {
    {Codec::kF32, gguf::TensorType::kF32, "f32"},
    {Codec::kF16, gguf::TensorType::kF16, "f16"},
    {Codec::kBF16, gguf::TensorType::kBF16, "bf16"},
    {Codec::kQ8_0, gguf::TensorType::kQ8_0, "q8_0"},
    {Codec::kQ4_0, gguf::TensorType::kQ4_0, "q4_0"},
    {Codec::kQ4_1, gguf::TensorType::kQ4_1, "q4_1"},
    {Codec::kQ5_0, gguf::TensorType::kQ5_0, "q5_0"},
    {Codec::kQ5_1, gguf::TensorType::kQ5_1, "q5_1"},
    {Codec::kQ2_K, gguf::TensorType::kQ2_K, "q2_k"},
    {Codec::kQ3_K, gguf::TensorType::kQ3_K, "q3_k"},
    {Codec::kQ4_K, gguf::TensorType::kQ4_K, "q4_k"},
    {Codec::kQ5_K, gguf::TensorType::kQ5_K, "q5_k"},
    {Codec::kQ6_K, gguf::TensorType::kQ6_K, "q6_k"},
    {Codec::kIQ4_NL, gguf::TensorType::kIQ4_NL, "iq4_nl"},
    {Codec::kIQ4_XS, gguf::TensorType::kIQ4_XS, "iq4_xs"},
    {Codec::kMXFP4, gguf::TensorType::kMXFP4, "mxfp4"},
};
const CodecInfo& info(Codec codec) { return kInfos[static_cast<size_t>(codec)]; }

}  // namespace

std::optional<Codec> codec_for(gguf::TensorType type) {
  for (const CodecInfo& row : kInfos) {
    if (row.type == type) return row.codec;
  }
  return std::nullopt;
}

gguf::TensorType tensor_type(Codec codec) { return info(codec).type; }

std::string_view codec_prefix(Codec codec) { return info(codec).prefix; }

PlaneWords plane_words(Codec codec, uint32_t cols) {
  const uint32_t units = div_ceil(cols, 32);
  // Rows of planes with half a word a value are padded to whole words.
  const uint32_t unit_halves = div_ceil(units, 2);
  const uint32_t supers = units / 8;
  switch (codec) {
    case Codec::kF32:
      return {.quants = units * 32};
    case Codec::kF16:
    case Codec::kBF16:
      return {.quants = units * 16};
    case Codec::kQ8_0:
      return {.quants = units * 8, .scales = unit_halves};
    case Codec::kQ4_0:
    case Codec::kIQ4_NL:
      return {.quants = units * 4, .scales = unit_halves};
    case Codec::kQ4_1:
      return {.quants = units * 4, .scales = units};
    case Codec::kQ5_0:
      return {.quants = units * 4, .high = units, .scales = unit_halves};
    case Codec::kQ5_1:
      return {.quants = units * 4, .high = units, .scales = units};
    case Codec::kQ2_K:
      return {.quants = units * 2, .scales = unit_halves, .deltas = supers};
    case Codec::kQ3_K:
      return {.quants = units * 2, .high = units, .supers = supers * 4};
    case Codec::kQ4_K:
      return {.quants = units * 4, .supers = supers * 4};
    case Codec::kQ5_K:
      return {.quants = units * 4, .high = units, .supers = supers * 4};
    case Codec::kQ6_K:
      return {.quants = units * 4,
              .high = units * 2,
              .scales = unit_halves,
              .deltas = div_ceil(supers, 2)};
    case Codec::kIQ4_XS:
      return {.quants = units * 4, .deltas = supers * 2};
    case Codec::kMXFP4:
      return {.quants = units * 4, .scales = div_ceil(units, 4)};
  }
  return {};
}

PackedLayout packed_layout(Codec codec, uint32_t rows, uint32_t cols) {
  const PlaneWords words = plane_words(codec, cols);
  uint64_t end = 0;  // in words
  const auto plane = [&](uint64_t row_words) {
    const uint64_t start = end;
    end += round_up(rows * row_words, 4);
    return start;
  };
  PackedLayout layout;
  layout.quants = plane(words.quants) / 4;
  layout.high = plane(words.high);
  layout.scales = plane(words.scales);
  layout.deltas = plane(words.deltas);
  layout.supers = plane(words.supers) / 4;
  layout.bytes = round_up(end * 4, 256);
  return layout;
}

uint64_t packed_bytes(Codec codec, uint32_t rows, uint32_t cols) {
  return packed_layout(codec, rows, cols).bytes;
}

uint64_t file_row_bytes(Codec codec, uint32_t cols) {
  const gguf::TensorTypeInfo& type = gguf::tensor_type_info(tensor_type(codec));
  return uint64_t{cols} / type.block_elements * type.block_bytes;
}

Status check_matrix(Codec codec, uint64_t rows, uint64_t cols) {
  const gguf::TensorTypeInfo& type = gguf::tensor_type_info(tensor_type(codec));
  if (rows == 0 || cols == 0)
    return fail(ErrorCode::kInvalidArgument,
                cat("a matrix of ", rows, " rows and ", cols, " columns is empty"));
  if (cols % type.block_elements != 0)
    return fail(ErrorCode::kInvalidArgument, cat("rows of ", cols, " elements are not whole ",
                                                 type.name, " blocks of ", type.block_elements));
  // Both below 2^26, so that no product in plane_words passes 2^32, nor in packed_layout 2^64.
  constexpr uint64_t kMax = uint64_t{1} << 26;
  if (rows >= kMax || cols >= kMax ||
      packed_bytes(codec, static_cast<uint32_t>(rows), static_cast<uint32_t>(cols)) >> 32 != 0)
    return fail(ErrorCode::kInvalidArgument,
                cat("a matrix of ", rows, " rows and ", cols, " columns exceeds 4 GiB"));
  return {};
}

uint32_t total_rows(std::span<const Segment> segments) {
  uint32_t rows = 0;
  for (const Segment& segment : segments) rows += segment.rows;
  return rows;
}

std::string shape_label(std::span<const Segment> segments, uint32_t cols) {
  std::string label;
  for (const Segment& segment : segments)
    label += cat(codec_prefix(segment.codec), " ", segment.rows, " ");
  return cat(label, "x ", cols);
}

}  // namespace lapidary::kernels
