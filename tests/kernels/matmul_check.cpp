#include "tests/kernels/matmul_check.h"

#include <algorithm>
#include <cmath>

#include "engine/kernels/quantize.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"

namespace lapidary::kernels {
namespace {

constexpr double kTolerance = 2e-5;

// How far quantising X may move each product: every activation moves by half a step of its unit's
// scale at most. In the matrix form X and W are halves, each off by 2^-10 of itself. Zeros for the
// float form.
std::vector<double> moves(const TrialGroup& group, const float* x, uint32_t cols, Dot dot) {
  const double steps = dot == Dot::kInt16 ? 16319 : 127;
  std::vector<double> half_step(cols);
  for (uint32_t c = 0; c < cols && dot == Dot::kMatrix; ++c)
    half_step[c] = 2.1 / 1024 * std::fabs(x[c]);
  for (uint32_t u = 0; u < cols && (dot == Dot::kInt16 || dot == Dot::kInt8); u += 32) {
    float most = 0;
    for (uint32_t c = u; c < u + 32; ++c) most = std::max(most, std::fabs(x[c]));
    std::fill_n(half_step.begin() + u, 32, most / steps / 2);
  }
  std::vector<double> out;
  for (const TrialMatrix& matrix : group.matrices) {
    for (size_t row = 0; row < matrix.rows; ++row) {
      double sum = 0;
      for (size_t c = 0; c < cols; ++c)
        sum += std::fabs(matrix.values[row * cols + c]) * half_step[c];
      out.push_back(sum);
    }
  }
  return out;
}

}  // namespace

Task<Status> expect_product(gpu::Device& device, const TrialGroup& group, MatmulSpec spec,
                            std::vector<uint32_t> counts, float scale) {
  spec.segments = group.segments;
  const bool geglu = spec.epilogue == Epilogue::kGeglu;
  const bool integer = spec.dot != Dot::kF32;
  const uint32_t rows = geglu ? spec.segments[0].rows : total_rows(spec.segments);
  const uint32_t y_stride = spec.y_stride == 0 ? rows : spec.y_stride;
  const uint32_t mul_stride = spec.mul_stride == 0 ? rows : spec.mul_stride;
  CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, matmul_source(spec)));
  const QuantizeSpec quantize{spec.cols, spec.dot};
  gpu::Kernel quantizer;
  if (integer) {
    CO_TRY(quantizer, co_await trial_kernel(device, quantize_source(quantize)));
  }
  for (const uint32_t tokens : counts) {
    const std::vector<float> x = TrialRandom(tokens).floats(size_t{tokens} * spec.cols, scale);
    const std::vector<float> mul = TrialRandom(2).floats(size_t{tokens} * mul_stride);
    const std::vector<float> before(size_t{tokens} * y_stride + 3, 7.0f);
    const std::vector<Step> step = {{.tokens = tokens}};
    CO_TRY(const gpu::Buffer y, trial_buffer(device, before));
    CO_TRY(const gpu::Buffer x_buffer, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer mul_buffer, trial_buffer(device, mul));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    CO_TRY(const gpu::Buffer quantized,
           trial_zeros(device, quantized_bytes(spec.dot, spec.cols, tokens)));
    if (integer) {
      const std::vector<gpu::Range> ranges = {x_buffer, quantized, step_buffer};
      CO_TRY_VOID(trial_dispatch(device, quantizer, ranges, quantize_groups(quantize, tokens)));
    }
    std::vector<gpu::Range> ranges = {group.buffer, y, integer ? quantized : x_buffer};
    if (spec.epilogue == Epilogue::kGeluMul) ranges.emplace_back(mul_buffer);
    ranges.emplace_back(step_buffer);
    CO_TRY_VOID(trial_dispatch(device, kernel, ranges, matmul_groups(spec, tokens)));
    CO_TRY(const std::vector<float> out, co_await trial_read<float>(device, y, before.size()));

    std::vector<double> want(before.begin(), before.end());
    std::vector<double> slack(want.size());
    for (uint32_t t = 0; t < tokens; ++t) {
      const float* row = x.data() + size_t{t} * spec.cols;
      const std::vector<double> product = trial_product(group, row);
      const std::vector<double> moved = moves(group, row, spec.cols, spec.dot);
      for (uint32_t r = 0; r < rows; ++r) {
        double value = product[r];
        double move = moved[r];
        // GELU is at most 1.13 steep, the soft cap 1.
        if (geglu) {
          const double gate = trial_gelu(value);
          const double up = product[rows + r];
          value = gate * up;
          move =
              1.13 * move * (std::fabs(up) + moved[rows + r]) + std::fabs(gate) * moved[rows + r];
        }
        if (spec.epilogue == Epilogue::kGeluMul) {
          const double factor = mul[size_t{t} * mul_stride + spec.mul_offset + r];
          value = trial_gelu(value) * factor;
          move *= 1.13 * std::fabs(factor);
        }
        if (spec.epilogue == Epilogue::kSoftcap) value = spec.cap * std::tanh(value / spec.cap);
        want[size_t{t} * y_stride + spec.row_offset + r] = value;
        slack[size_t{t} * y_stride + spec.row_offset + r] = move;
      }
    }
    for (size_t i = 0; i < want.size(); ++i) {
      const double most = slack[i] + kTolerance * std::max(1.0, std::fabs(want[i]));
      KERNEL_EXPECT(std::fabs(out[i] - want[i]) <= most, kernel.label, ", ", tokens, " tokens, at ",
                    i, ": ", out[i], " instead of ", want[i], ", at most ", most, " away");
    }
  }
  co_return Status{};
}

Task<Status> expect_product(gpu::Device& device, MatmulSpec spec, std::vector<uint32_t> counts,
                            float scale) {
  CO_TRY(const TrialGroup group, co_await make_group(device, spec.segments, spec.cols));
  co_return co_await expect_product(device, group, std::move(spec), std::move(counts), scale);
}

}  // namespace lapidary::kernels
