// Gather: scale, parts of a table, ids outside the part, odd widths.
#include "engine/kernels/gather.h"
#include "engine/kernels/selftest_matrix.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"
#include "tests/kernels/kernel_test.h"

namespace lapidary::kernels {
namespace {

// Gathers ids from the part [begin, begin + rows) of a table.
Task<Status> expect_rows(gpu::Device& device, Codec codec, uint32_t cols, uint32_t begin,
                         uint32_t rows, std::vector<uint32_t> ids) {
  constexpr float kScale = 39.1918f;
  std::vector<TrialMatrix> matrices;
  matrices.push_back(trial_matrix(codec, rows, cols, 4));
  CO_TRY(const TrialGroup group, co_await trial_group(device, std::move(matrices)));
  const uint32_t tokens = static_cast<uint32_t>(ids.size());
  const std::vector<float> before(size_t{tokens} * cols + 4, 7.0f);
  // One id more than there are tokens: it must not be read.
  std::vector<uint32_t> more = ids;
  more.push_back(begin);
  const std::vector<Step> step = {{.tokens = tokens}};
  const GatherSpec spec{
      .codec = codec, .cols = cols, .scale = kScale, .row_begin = begin, .row_count = rows};
  CO_TRY(const gpu::Buffer id_buffer, trial_buffer(device, more));
  CO_TRY(const gpu::Buffer out_buffer, trial_buffer(device, before));
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  // A command list made for more tokens than there are now.
  CO_TRY_VOID(co_await trial_run(device, gather_source(spec),
                                 {group.buffer, id_buffer, out_buffer, step_buffer},
                                 gather_groups(spec, tokens + 1)));
  CO_TRY(const std::vector<float> out,
         co_await trial_read<float>(device, out_buffer, before.size()));
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t token = i / cols;
    float want = 7.0f;
    if (token < tokens && ids[token] >= begin && ids[token] - begin < rows)
      want = kScale * group.matrices[0].values[size_t{ids[token] - begin} * cols + i % cols];
    KERNEL_EXPECT(out[i] >= want - 1e-5f && out[i] <= want + 1e-5f, codec_prefix(codec), " x ",
                  cols, " at ", i, ": ", out[i], " instead of ", want);
  }
  co_return Status{};
}

KERNEL_TEST(gather_rows_of_a_part) {
  CO_TRY_VOID(co_await expect_rows(device, Codec::kQ6_K, 1536, 0, 4, {3, 3, 0, 1}));
  CO_TRY_VOID(co_await expect_rows(device, Codec::kQ4_K, 256, 100, 3, {100, 99, 102, 103, 0, 101}));
  co_return co_await expect_rows(device, Codec::kF16, 37, 5, 2, {6, 4, 5, 4294967295u});
}

KERNEL_TEST(gather_from_a_long_table) {
  co_return co_await expect_rows(device, Codec::kQ8_0, 32, 0, 70001, {70000, 65536, 65535, 1});
}

}  // namespace
}  // namespace lapidary::kernels
