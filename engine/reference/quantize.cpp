// Q8_0 and Q4_0 with llama-quantize's rounding: the inverse scale is that of the unrounded scale.
// (gguf/encode.h divides by the scale as stored, which is closer on average but not the same file.)
#include "engine/reference/quantize.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/gguf/codec.h"
#include "engine/gguf/encode.h"
#include "engine/gguf/writer.h"

namespace lapidary::reference {
namespace {

using gguf::TensorType;

constexpr size_t kBlock = 32;

void put_half(std::byte* out, float value) {
  const uint16_t bits = float_to_half(value);
  std::memcpy(out, &bits, sizeof bits);
}

// 34 bytes: half scale, 32 signed bytes.
void q8_0(std::span<const float> x, std::byte* out) {
  float largest = 0;
  for (const float v : x) largest = std::max(largest, std::fabs(v));
  const float d = largest / 127;
  const float inverse = d != 0 ? 1 / d : 0;
  put_half(out, d);
  for (size_t i = 0; i < kBlock; ++i) {
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(x[i] * inverse)));
  }
}

// 18 bytes: half scale, 16 bytes of nibbles, element i beside element i + 16.
void q4_0(std::span<const float> x, std::byte* out) {
  float largest = 0;
  for (const float v : x) {
    if (std::fabs(v) > std::fabs(largest)) largest = v;
  }
  const float d = largest / -8;
  const float inverse = d != 0 ? 1 / d : 0;
  put_half(out, d);
  const auto quant = [&](size_t i) {
    const float scaled = x[i] * inverse;  // -8 … 8
    return std::min(15, static_cast<int>(scaled + 8.5f));
  };
  for (size_t i = 0; i < kBlock / 2; ++i) {
    out[2 + i] = static_cast<std::byte>(quant(i) | quant(i + kBlock / 2) << 4);
  }
}

Result<std::vector<std::byte>> quantize(std::span<const float> x, TensorType type) {
  if (type == TensorType::kBF16) return gguf::encode_block_row(type, x);
  TRY(const uint64_t size, gguf::tensor_bytes(type, x.size()));
  std::vector<std::byte> out(static_cast<size_t>(size));
  const size_t block_bytes = gguf::tensor_type_info(type).block_bytes;
  for (size_t block = 0; block < x.size() / kBlock; ++block) {
    const auto values = x.subspan(block * kBlock, kBlock);
    std::byte* at = out.data() + block * block_bytes;
    type == TensorType::kQ8_0 ? q8_0(values, at) : q4_0(values, at);
  }
  return out;
}

}  // namespace

Result<std::vector<std::byte>> quantize_model(const gguf::Header& header, Bytes file,
                                              TensorType type) {
  if (type != TensorType::kQ8_0 && type != TensorType::kQ4_0) {
    return fail(ErrorCode::kUnsupported, cat("quantize_model writes Q8_0 and Q4_0, not ",
                                             gguf::tensor_type_info(type).name));
  }
  gguf::Writer writer(header.version(), header.alignment());
  for (const gguf::KeyValue& entry : header.metadata()) {
    if (entry.key == "general.file_type") {
      writer.add(entry.key, uint32_t{type == TensorType::kQ8_0 ? 7u : 2u});
    } else if (entry.key != "general.alignment") {
      writer.add(entry.key, entry.value);
    }
  }
  for (const gguf::TensorInfo& tensor : header.tensors()) {
    if (tensor.offset > file.size() || tensor.bytes > file.size() - tensor.offset) {
      return fail(ErrorCode::kTruncated,
                  cat("tensor ", printable(tensor.name), " ends beyond the end of the file"));
    }
    const Bytes data =
        file.subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes));
    const std::span dims(tensor.dims.data(), tensor.n_dims);
    if (tensor.type != TensorType::kF16) {
      writer.add_tensor(tensor.name, dims, tensor.type, data);
      continue;
    }
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    TRY_VOID(gguf::decode_block_row(tensor.type, data, values));
    const TensorType target =
        tensor.name.starts_with("per_layer_model_proj") ? TensorType::kBF16 : type;
    if (tensor.dims[0] % gguf::tensor_type_info(target).block_elements != 0) {
      return fail(ErrorCode::kInvalidArgument, cat("tensor ", printable(tensor.name), ": rows of ",
                                                   tensor.dims[0], " are not whole blocks"));
    }
    TRY(std::vector<std::byte> blocks, quantize(values, target));
    writer.add_tensor(tensor.name, dims, target, std::move(blocks));
  }
  return writer.finish();
}

}  // namespace lapidary::reference
