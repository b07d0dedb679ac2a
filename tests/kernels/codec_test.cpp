// Repack and decode of every weight format: rows gathered from GPU memory equal the file's values.
#include <cmath>

#include "engine/gguf/codec.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/selftest_matrix.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/kernel_test.h"

namespace lapidary::kernels {
namespace {

// All rows of a matrix as the GPU decodes them.
Task<Result<std::vector<float>>> gathered(gpu::Device& device, const TrialGroup& group, size_t i) {
  const TrialMatrix& matrix = group.matrices[i];
  std::vector<uint32_t> ids(matrix.rows);
  for (uint32_t row = 0; row < matrix.rows; ++row) ids[row] = row;
  const GatherSpec spec{
      .codec = matrix.codec, .cols = matrix.cols, .scale = 1.0f, .row_count = matrix.rows};
  const std::vector<Step> step = {{.tokens = matrix.rows}};
  CO_TRY(gpu::Buffer tokens, trial_buffer(device, ids));
  CO_TRY(gpu::Buffer out, trial_zeros(device, matrix.values.size() * sizeof(float)));
  CO_TRY(gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY_VOID(co_await trial_run(device, gather_source(spec),
                                 {gpu::Range(group.buffer, group.segments[i].offset,
                                             packed_bytes(matrix.codec, matrix.rows, matrix.cols)),
                                  tokens, out, step_buffer},
                                 gather_groups(spec, matrix.rows)));
  co_return co_await trial_read<float>(device, out, matrix.values.size());
}

Task<Status> expect_exact(gpu::Device& device, TrialMatrix made, uint32_t chunk_rows) {
  std::vector<TrialMatrix> matrices;
  matrices.push_back(std::move(made));
  CO_TRY(const TrialGroup group, co_await trial_group(device, std::move(matrices), chunk_rows));
  const TrialMatrix& matrix = group.matrices[0];
  CO_TRY(const std::vector<float> out, co_await gathered(device, group, 0));
  // scale * q + offset may be fused on the GPU, which rounds once instead of twice.
  const bool may_fuse = has_offsets(matrix.codec);
  for (size_t at = 0; at < out.size(); ++at) {
    const float want = matrix.values[at];
    const float slack = may_fuse ? 2e-7f : 0.0f;
    KERNEL_EXPECT(std::fabs(out[at] - want) <= slack && std::isfinite(out[at]),
                  codec_prefix(matrix.codec), " ", matrix.rows, " x ", matrix.cols, " at ", at,
                  ": ", out[at], " instead of ", want);
  }
  co_return Status{};
}

// Rows that fill no word of the planes that units share.
Task<Status> expect_odd_codec(gpu::Device& device, Codec codec) {
  const uint32_t block = gguf::tensor_type_info(tensor_type(codec)).block_elements;
  CO_TRY_VOID(co_await expect_exact(device, trial_matrix(codec, 1, block, 1), 0));
  co_return co_await expect_exact(device, trial_matrix(codec, 5, 3 * block, 2), 2);
}
Task<Status> expect_codec(gpu::Device& device, Codec codec) {
  CO_TRY_VOID(co_await expect_odd_codec(device, codec));
  co_return co_await expect_exact(device, trial_matrix(codec, 7, 5376, 3), 3);
}

KERNEL_TEST(codec_f32_is_exact) { co_return co_await expect_codec(device, Codec::kF32); }
KERNEL_TEST(codec_f16_is_exact) { co_return co_await expect_codec(device, Codec::kF16); }
KERNEL_TEST(codec_bf16_is_exact) { co_return co_await expect_codec(device, Codec::kBF16); }
KERNEL_TEST(codec_q8_0_is_exact) { co_return co_await expect_codec(device, Codec::kQ8_0); }
KERNEL_TEST(codec_q4_0_is_exact) { co_return co_await expect_codec(device, Codec::kQ4_0); }
KERNEL_TEST(codec_q5_0_is_exact) { co_return co_await expect_codec(device, Codec::kQ5_0); }
KERNEL_TEST(codec_q4_k_is_exact) { co_return co_await expect_codec(device, Codec::kQ4_K); }
KERNEL_TEST(codec_q5_k_is_exact) { co_return co_await expect_codec(device, Codec::kQ5_K); }
KERNEL_TEST(codec_q6_k_is_exact) { co_return co_await expect_codec(device, Codec::kQ6_K); }
KERNEL_TEST(codec_q4_1_is_exact) { co_return co_await expect_odd_codec(device, Codec::kQ4_1); }
KERNEL_TEST(codec_q5_1_is_exact) { co_return co_await expect_odd_codec(device, Codec::kQ5_1); }
KERNEL_TEST(codec_q2_k_is_exact) { co_return co_await expect_odd_codec(device, Codec::kQ2_K); }
KERNEL_TEST(codec_q3_k_is_exact) { co_return co_await expect_odd_codec(device, Codec::kQ3_K); }
KERNEL_TEST(codec_iq4_nl_is_exact) { co_return co_await expect_odd_codec(device, Codec::kIQ4_NL); }
KERNEL_TEST(codec_iq4_xs_is_exact) { co_return co_await expect_odd_codec(device, Codec::kIQ4_XS); }
KERNEL_TEST(codec_mxfp4_is_exact) { co_return co_await expect_odd_codec(device, Codec::kMXFP4); }

// Scales of K-quants are often subnormal halves: flushing them to zero would lose whole blocks.
KERNEL_TEST(codec_keeps_subnormal_halves) {
  for (const Codec codec : {Codec::kF16, Codec::kQ8_0, Codec::kQ4_K}) {
    TrialMatrix matrix = trial_matrix(codec, 4, 256, 77);
    const uint32_t bytes = gguf::tensor_type_info(tensor_type(codec)).block_bytes;
    for (size_t at = 0; at < matrix.file.size(); at += bytes) {
      matrix.file[at] = std::byte{0x35};
      matrix.file[at + 1] = static_cast<std::byte>(at % 2 == 0 ? 0x02 : 0x82);
    }
    CO_TRY_VOID(gguf::decode_block_row(tensor_type(codec), matrix.file, matrix.values));
    CO_TRY_VOID(co_await expect_exact(device, std::move(matrix), 0));
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
