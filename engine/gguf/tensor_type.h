// The tensor types a GGUF file can name: their ids, names and block sizes, in one table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/error.h"

namespace lapidary::gguf {

// The ids are those written in GGUF files. Gaps are ids that ggml has retired.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
  kQ2_0 = 42,
};

struct TensorTypeInfo {
  TensorType type;
  std::string_view name;    // as the field writes it: "Q4_K"
  uint32_t block_elements;  // elements a block holds; a row is a whole number of blocks
  uint32_t block_bytes;
  bool decodable;  // codec.h can turn it into f32
};

inline constexpr TensorTypeInfo kTensorTypes[] = {
    {TensorType::kF32, "F32", 1, 4, true},
    {TensorType::kF16, "F16", 1, 2, true},
    {TensorType::kQ4_0, "Q4_0", 32, 18, true},
    {TensorType::kQ4_1, "Q4_1", 32, 20, true},
    {TensorType::kQ5_0, "Q5_0", 32, 22, true},
    {TensorType::kQ5_1, "Q5_1", 32, 24, true},
    {TensorType::kQ8_0, "Q8_0", 32, 34, true},
    {TensorType::kQ8_1, "Q8_1", 32, 36, false},
    {TensorType::kQ2_K, "Q2_K", 256, 84, true},
    {TensorType::kQ3_K, "Q3_K", 256, 110, true},
    {TensorType::kQ4_K, "Q4_K", 256, 144, true},
    {TensorType::kQ5_K, "Q5_K", 256, 176, true},
    {TensorType::kQ6_K, "Q6_K", 256, 210, true},
    {TensorType::kQ8_K, "Q8_K", 256, 292, true},
    {TensorType::kIQ2_XXS, "IQ2_XXS", 256, 66, false},
    {TensorType::kIQ2_XS, "IQ2_XS", 256, 74, false},
    {TensorType::kIQ3_XXS, "IQ3_XXS", 256, 98, false},
    {TensorType::kIQ1_S, "IQ1_S", 256, 50, false},
    {TensorType::kIQ4_NL, "IQ4_NL", 32, 18, true},
    {TensorType::kIQ3_S, "IQ3_S", 256, 110, false},
    {TensorType::kIQ2_S, "IQ2_S", 256, 82, false},
    {TensorType::kIQ4_XS, "IQ4_XS", 256, 136, true},
    {TensorType::kI8, "I8", 1, 1, false},
    {TensorType::kI16, "I16", 1, 2, false},
    {TensorType::kI32, "I32", 1, 4, false},
    {TensorType::kI64, "I64", 1, 8, false},
    {TensorType::kF64, "F64", 1, 8, false},
    {TensorType::kIQ1_M, "IQ1_M", 256, 56, false},
    {TensorType::kBF16, "BF16", 1, 2, true},
    {TensorType::kTQ1_0, "TQ1_0", 256, 54, false},
    {TensorType::kTQ2_0, "TQ2_0", 256, 66, false},
    {TensorType::kMXFP4, "MXFP4", 32, 17, true},
    {TensorType::kNVFP4, "NVFP4", 64, 36, false},
    {TensorType::kQ1_0, "Q1_0", 128, 18, false},
    {TensorType::kQ2_0, "Q2_0", 64, 18, false},
};

// The table's row for an id read from a file; nullptr if no such type is known.
const TensorTypeInfo* tensor_type_info(uint32_t id);
// The same for a member of the enum, which always has a row.
const TensorTypeInfo& tensor_type_info(TensorType type);

// "Q4_K", or "type 99" for an id outside the table: for messages and listings.
std::string tensor_type_name(uint32_t id);

// Bytes that `elements` of a type take. kUnsupported for an unknown id; kInvalidArgument if
// `elements` is not a multiple of the type's block or if the size overflows 64 bits.
Result<uint64_t> tensor_bytes(uint32_t id, uint64_t elements);
Result<uint64_t> tensor_bytes(TensorType type, uint64_t elements);

}  // namespace lapidary::gguf
