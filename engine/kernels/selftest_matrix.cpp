#include "engine/kernels/selftest_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/base/bytes.h"
#include "engine/gguf/codec.h"
#include "engine/kernels/repack.h"
#include "engine/kernels/trial.h"

namespace lapidary::kernels {
namespace {

void put_half(std::byte* at, float value) {
  const uint16_t half = float_to_half(value);
  std::memcpy(at, &half, sizeof half);
}

// Random quants fill the block; the scales are chosen so that values have a spread of `spread`.
void random_block(Codec codec, std::byte* block, float spread, TrialRandom& random) {
  const uint32_t bytes = gguf::tensor_type_info(tensor_type(codec)).block_bytes;
  for (uint32_t i = 0; i < bytes; ++i) block[i] = static_cast<std::byte>(random.bits() >> 24);
  const float scale = spread * (1.0f + 0.5f * random.next());
  switch (codec) {
    case Codec::kF32: {
      const float value = spread * random.next();
      std::memcpy(block, &value, sizeof value);
      break;
    }
    case Codec::kF16:
      put_half(block, spread * random.next());
      break;
    case Codec::kBF16: {
      const auto bits =
          static_cast<uint16_t>(std::bit_cast<uint32_t>(spread * random.next()) >> 16);
      std::memcpy(block, &bits, sizeof bits);
      break;
    }
    case Codec::kQ8_0:
      put_half(block, scale / 127);
      break;
    case Codec::kQ4_0:
      put_half(block, scale / 8);
      break;
    case Codec::kQ4_1:
      put_half(block, scale / 8);
      put_half(block + 2, -scale);
      break;
    case Codec::kQ5_0:
      put_half(block, scale / 16);
      break;
    case Codec::kQ5_1:
      put_half(block, scale / 16);
      put_half(block + 2, -scale);
      break;
    case Codec::kQ2_K:  // scales and minima are random 4-bit numbers, 8 on average
      put_half(block + 80, scale / (8 * 1.5f));
      put_half(block + 82, scale / 8);
      break;
    case Codec::kQ3_K:  // scales are random 6-bit numbers, signed
      put_half(block + 108, scale / (16 * 4));
      break;
    case Codec::kQ4_K:  // scales and minima are random 6-bit numbers, 32 on average
      put_half(block, scale / (32 * 8));
      put_half(block + 2, scale / 32);
      break;
    case Codec::kQ5_K:
      put_half(block, scale / (32 * 16));
      put_half(block + 2, scale / 32);
      break;
    case Codec::kQ6_K:  // scales are random i8
      put_half(block + 208, scale / (64 * 32));
      break;
    case Codec::kIQ4_NL:
      put_half(block, scale / 127);
      break;
    case Codec::kIQ4_XS:  // scales are random 6-bit numbers, signed
      put_half(block, scale / (16 * 127));
      break;
    case Codec::kMXFP4:  // 2^(e - 128), times at most 12
      block[0] =
          static_cast<std::byte>(124 + std::ilogb(scale) + static_cast<int>(random.bits() >> 31));
      break;
  }
}

}  // namespace

TrialMatrix trial_matrix(Codec codec, uint32_t rows, uint32_t cols, uint32_t seed) {
  const gguf::TensorTypeInfo& type = gguf::tensor_type_info(tensor_type(codec));
  TrialMatrix matrix{.codec = codec, .rows = rows, .cols = cols};
  const size_t elements = size_t{rows} * cols;
  matrix.file.resize(elements / type.block_elements * type.block_bytes);
  matrix.values.resize(elements);
  TrialRandom random(seed);
  const float spread = 1.0f / std::sqrt(static_cast<float>(cols));
  for (size_t at = 0; at < matrix.file.size(); at += type.block_bytes)
    random_block(codec, matrix.file.data() + at, spread, random);
  // Whole blocks of a decodable type: if that fails all the same, no comparison may pass.
  if (!gguf::decode_block_row(type.type, matrix.file, matrix.values)) {
    matrix.values.assign(elements, std::nanf(""));
  }
  return matrix;
}

Task<Result<TrialGroup>> trial_group(gpu::Device& device, std::vector<TrialMatrix> matrices,
                                     uint32_t chunk_rows) {
  TrialGroup group;
  uint64_t bytes = 0;
  for (const TrialMatrix& matrix : matrices) {
    group.segments.push_back({matrix.codec, matrix.rows, static_cast<uint32_t>(bytes)});
    bytes += packed_bytes(matrix.codec, matrix.rows, matrix.cols);
  }
  CO_TRY(group.buffer, trial_zeros(device, bytes));
  for (size_t i = 0; i < matrices.size(); ++i) {
    const TrialMatrix& matrix = matrices[i];
    const RepackSpec spec{matrix.codec, matrix.cols};
    const uint32_t chunk = chunk_rows == 0 ? matrix.rows : chunk_rows;
    const uint64_t row_bytes = file_row_bytes(matrix.codec, matrix.cols);
    CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, repack_source(spec)));
    for (uint32_t row = 0; row < matrix.rows; row += chunk) {
      const uint32_t rows = std::min(chunk, matrix.rows - row);
      // Two bytes of lead-in, so that words of the file are not words of the buffer.
      std::vector<std::byte> raw(round_up(2 + rows * row_bytes, 4));
      std::memcpy(raw.data() + 2, matrix.file.data() + row * row_bytes, rows * row_bytes);
      const std::vector<RepackParams> params = {{row, rows, matrix.rows, 2}};
      CO_TRY(const gpu::Buffer raw_buffer, trial_buffer(device, raw));
      CO_TRY(const gpu::Buffer params_buffer, trial_buffer(device, params));
      const gpu::Range packed(group.buffer, group.segments[i].offset,
                              packed_bytes(matrix.codec, matrix.rows, matrix.cols));
      const std::vector<gpu::Range> bindings{raw_buffer, packed, params_buffer};
      CO_TRY_VOID(trial_dispatch(device, kernel, bindings, repack_groups(spec, rows)));
    }
  }
  group.matrices = std::move(matrices);
  co_return group;
}

std::vector<double> trial_product(const TrialGroup& group, const float* x) {
  std::vector<double> y;
  for (const TrialMatrix& matrix : group.matrices) {
    for (uint32_t row = 0; row < matrix.rows; ++row) {
      double sum = 0;
      for (uint32_t col = 0; col < matrix.cols; ++col)
        sum += double{matrix.values[size_t{row} * matrix.cols + col]} * x[col];
      y.push_back(sum);
    }
  }
  return y;
}

}  // namespace lapidary::kernels
