// The audio tower's kernels against plain double loops: windows from their start, and tokens that
// have others before them.
#include "engine/kernels/audio.h"

#include <algorithm>
#include <cmath>

#include "engine/kernels/step.h"
#include "engine/kernels/trial_attention.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

constexpr double kTolerance = 2e-5;

using Doubles = std::vector<double>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Scales `row` by its norm.
void normalise(std::span<double> row, double eps) {
  double squares = 0;
  for (const double value : row) squares += value * value;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(row.size()) + eps);
  for (double& value : row) value *= scale;
}

// Rows of positions, from 0 on, as a kernel finds them: those before `begin` in `past` (at their
// positions modulo kAudioPast, in part `part` of it), the others from the first row on.
std::vector<float> late_rows(std::span<const float> rows, uint32_t width, uint32_t begin) {
  return {rows.begin() + static_cast<std::ptrdiff_t>(begin * width), rows.end()};
}
void put_past(std::vector<float>& past, uint32_t part, std::span<const float> rows, uint32_t width,
              uint32_t begin) {
  for (uint32_t p = begin > kAudioPast ? begin - kAudioPast : 0; p < begin; ++p)
    std::ranges::copy(rows.subspan(p * width, width),
                      past.begin() + (part * kAudioPast + p % kAudioPast) * width);
}

Task<Status> check_subsample(gpu::Device& device, AudioSubsampleSpec spec, Frames frames,
                             const std::vector<Variant>& forms) {
  TrialRandom random(spec.out);
  const std::vector<float> x = random.floats(size_t{frames.in_rows} * spec.bins * spec.in);
  const size_t taps = size_t{9} * spec.in;
  const std::vector<float> weights = random.floats((taps + 1) * spec.out);
  Doubles wanted;
  for (uint32_t row = 0; row < frames.out_rows; ++row) {
    for (uint32_t bin = 0; bin < spec.out_bins(); ++bin) {
      Doubles sums(spec.out);
      for (int tap = 0; tap < 9; ++tap) {
        const int r = static_cast<int>(2 * row + frames.offset) - 1 + tap / 3;
        const int b = static_cast<int>(2 * bin) - 1 + tap % 3;
        if (r < 0 || b < 0 || r >= static_cast<int>(frames.in_rows) ||
            b >= static_cast<int>(spec.bins))
          continue;
        for (uint32_t i = 0; i < spec.in; ++i) {
          for (uint32_t o = 0; o < spec.out; ++o)
            sums[o] += double{x[(r * spec.bins + b) * spec.in + i]} *
                       weights[(i * 9 + tap) * spec.out + o];
        }
      }
      double mean = 0;
      for (const double sum : sums) mean += sum / spec.out;
      for (double& sum : sums) sum -= mean;
      normalise(sums, spec.eps);
      for (uint32_t o = 0; o < spec.out; ++o)
        wanted.push_back(std::max(0.0, sums[o] * weights[taps * spec.out + o]));
    }
  }
  for (const Variant& variant : forms) {
    CO_TRY(const gpu::Buffer in, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer weight, trial_buffer(device, weights));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
    CO_TRY(const gpu::Buffer uniform, trial_buffer(device, std::vector<Frames>{frames}));
    CO_TRY_VOID(co_await trial_run(device, audio_subsample_source(spec, variant),
                                   {in, weight, out, uniform},
                                   audio_subsample_groups(spec, frames.out_rows)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
    const double d = largest_difference(got, wanted);
    KERNEL_EXPECT(d < 2 * kTolerance, spec.in, " to ", spec.out, " differs by ", d);
  }
  co_return Status{};
}

// An even and an odd number of rows and bins, more channels than a workgroup has, and a piece.
KERNEL_TEST(audio_subsample) {
  const std::vector<Variant> one = {variants(device).front()};
  CO_TRY_VOID(co_await check_subsample(device, {.bins = 128, .in = 1, .out = 128},
                                       {.in_rows = 7, .out_rows = 4}, one));
  CO_TRY_VOID(co_await check_subsample(device, {.bins = 9, .in = 12, .out = 32},
                                       {.in_rows = 6, .out_rows = 3}, one));
  co_return co_await check_subsample(device, {.bins = 6, .in = 3, .out = 150},
                                     {.offset = 1, .in_rows = 9, .out_rows = 4}, one);
}
KERNEL_TEST(audio_subsample_unrolled) {
  co_return co_await check_subsample(device, {.bins = 10, .in = 4, .out = 5},
                                     {.offset = 1, .in_rows = 4, .out_rows = 2},
                                     {unrolled_variants(device).front()});
}

Task<Status> check_attention(gpu::Device& device, AudioAttentionSpec spec, uint32_t begin,
                             uint32_t end, const Variant& variant) {
  const uint32_t width = spec.heads * spec.head_dim;
  TrialRandom random(width + begin);
  const std::vector<float> q = random.floats(size_t{end} * width, 2);
  const std::vector<float> k = random.floats(size_t{end} * width, 2);
  const std::vector<float> v = random.floats(size_t{end} * width, 2);
  const std::vector<float> distances = random.floats(size_t{spec.keys} * width);
  const std::vector<float> scale = random.floats(spec.head_dim, 0.3f, 0.6f);
  Doubles wanted;
  for (uint32_t t = begin; t < end; ++t) {
    for (uint32_t head = 0; head < spec.heads; ++head) {
      Doubles p;
      for (uint32_t back = 0; back < std::min(spec.keys, t + 1); ++back) {
        double score = 0;
        for (uint32_t d = head * spec.head_dim; d < (head + 1) * spec.head_dim; ++d)
          score += double{q[t * width + d]} * scale[d % spec.head_dim] *
                   (double{k[(t - back) * width + d]} * spec.k_scale + distances[back * width + d]);
        p.push_back(std::exp(spec.cap * std::tanh(score / spec.cap)));
      }
      double total = 0;
      for (const double value : p) total += value;
      for (uint32_t d = head * spec.head_dim; d < (head + 1) * spec.head_dim; ++d) {
        double sum = 0;
        for (uint32_t back = 0; back < p.size(); ++back)
          sum += p[back] / total * v[(t - back) * width + d];
        wanted.push_back(sum);
      }
    }
  }
  std::vector<float> past(size_t{2} * kAudioPast * width, 9e9f);
  put_past(past, 0, k, width, begin);
  put_past(past, 1, v, width, begin);
  CO_TRY(const gpu::Buffer q_in, trial_buffer(device, late_rows(q, width, begin)));
  CO_TRY(const gpu::Buffer k_in, trial_buffer(device, late_rows(k, width, begin)));
  CO_TRY(const gpu::Buffer v_in, trial_buffer(device, late_rows(v, width, begin)));
  CO_TRY(const gpu::Buffer past_in, trial_buffer(device, past));
  CO_TRY(const gpu::Buffer rows, trial_buffer(device, distances));
  CO_TRY(const gpu::Buffer scales, trial_buffer(device, scale));
  CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
  CO_TRY(const gpu::Buffer step,
         trial_buffer(device, std::vector<Step>{{.position = begin, .tokens = end - begin}}));
  CO_TRY_VOID(co_await trial_run(device, audio_attention_source(spec, variant),
                                 {q_in, k_in, v_in, past_in, rows, scales, out, step},
                                 audio_attention_groups(spec, end - begin)));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
  const double d = largest_difference(got, wanted);
  KERNEL_EXPECT(d < 5 * kTolerance, "from ", begin, " differs by ", d);
  co_return Status{};
}

// Scores on both sides of the cap, heads that are no whole chunks, and tokens with few, many and no
// others before them.
KERNEL_TEST(audio_attention) {
  const Variant form = variants(device).front();
  const AudioAttentionSpec small{.heads = 3, .head_dim = 40, .keys = 12, .k_scale = 1.9f, .cap = 5};
  CO_TRY_VOID(co_await check_attention(device, small, 0, 37, form));
  CO_TRY_VOID(co_await check_attention(device, small, 5, 9, form));
  CO_TRY_VOID(co_await check_attention(device, small, 45, 64, form));
  co_return co_await check_attention(device, {.heads = 1, .head_dim = 128, .keys = 16}, 20, 41,
                                     form);
}
KERNEL_TEST(audio_attention_unrolled) {
  co_return co_await check_attention(device, {.heads = 2, .head_dim = 8}, 3, 21,
                                     unrolled_variants(device).front());
}

Task<Status> check_convolution(gpu::Device& device, AudioConvolutionSpec spec, uint32_t begin,
                               uint32_t end, const std::vector<Variant>& forms) {
  const uint32_t cols = spec.cols;
  TrialRandom random(cols + begin);
  const std::vector<float> x = random.floats(size_t{end} * cols, 2);
  const std::vector<float> weights = random.floats((size_t{spec.taps} + 1) * cols);
  Doubles wanted;
  for (uint32_t t = begin; t < end; ++t) {
    Doubles row(cols);
    for (uint32_t n = 0; n < std::min(spec.taps, t + 1); ++n) {
      for (uint32_t c = 0; c < cols; ++c)
        row[c] += double{weights[(spec.taps - 1 - n) * cols + c]} * x[(t - n) * cols + c];
    }
    normalise(row, spec.eps);
    for (uint32_t c = 0; c < cols; ++c) {
      const double z = row[c] * weights[spec.taps * cols + c];
      wanted.push_back(z * sigmoid(z));
    }
  }
  std::vector<float> past(size_t{kAudioPast} * cols, 9e9f);
  put_past(past, 0, x, cols, begin);
  for (const Variant& variant : forms) {
    CO_TRY(const gpu::Buffer in, trial_buffer(device, late_rows(x, cols, begin)));
    CO_TRY(const gpu::Buffer past_in, trial_buffer(device, past));
    CO_TRY(const gpu::Buffer weight, trial_buffer(device, weights));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
    CO_TRY(const gpu::Buffer step,
           trial_buffer(device, std::vector<Step>{{.position = begin, .tokens = end - begin}}));
    CO_TRY_VOID(co_await trial_run(device, audio_convolution_source(spec, variant),
                                   {in, past_in, weight, out, step}, fold_groups(end - begin)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
    const double d = largest_difference(got, wanted);
    KERNEL_EXPECT(d < kTolerance, "from ", begin, " differs by ", d);
  }
  co_return Status{};
}

KERNEL_TEST(audio_convolution) {
  CO_TRY_VOID(co_await check_convolution(device, {.cols = 300}, 0, 9, variants(device)));
  co_return co_await check_convolution(device, {.cols = 64, .taps = 16}, 18, 23, variants(device));
}
KERNEL_TEST(audio_convolution_unrolled) {
  co_return co_await check_convolution(device, {.cols = 70}, 2, 6, unrolled_variants(device));
}

KERNEL_TEST(bias_norm) {
  constexpr uint32_t kCols = 300, kRows = 5;
  TrialRandom random(3);
  const std::vector<float> x = random.floats(kRows * kCols, 2);
  const std::vector<float> bias = random.floats(kCols);
  Doubles wanted;
  for (uint32_t t = 0; t < kRows; ++t) {
    Doubles row(kCols);
    for (uint32_t c = 0; c < kCols; ++c) row[c] = double{x[t * kCols + c]} + bias[c];
    normalise(row, 1e-6);
    wanted.insert(wanted.end(), row.begin(), row.end());
  }
  for (const Variant& variant : variants(device)) {
    CO_TRY(const gpu::Buffer in, trial_buffer(device, x));
    CO_TRY(const gpu::Buffer biases, trial_buffer(device, bias));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
    CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = kRows}}));
    CO_TRY_VOID(co_await trial_run(device, bias_norm_source(kCols, 1e-6f, variant),
                                   {in, biases, out, step}, fold_groups(kRows)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
    const double d = largest_difference(got, wanted);
    KERNEL_EXPECT(d < kTolerance, "differs by ", d);
  }
  co_return Status{};
}

// Values beyond those whose exponential is a finite float, too.
KERNEL_TEST(sigmoid_gate) {
  constexpr uint32_t kWidth = 270, kRows = 3;
  for (const uint32_t offset : {0u, kWidth}) {
    const SigmoidGateSpec spec{.width = kWidth, .z_stride = 2 * kWidth, .gate_offset = offset};
    TrialRandom random(offset + 1);
    const std::vector<float> z = random.floats(size_t{kRows} * spec.z_stride, 200);
    Doubles wanted;
    for (uint32_t t = 0; t < kRows; ++t) {
      for (uint32_t i = 0; i < kWidth; ++i) {
        const size_t at = size_t{t} * spec.z_stride + i;
        wanted.push_back(z[at] * sigmoid(z[at + offset]));
      }
    }
    CO_TRY(const gpu::Buffer in, trial_buffer(device, z));
    CO_TRY(const gpu::Buffer out, trial_zeros(device, wanted.size() * 4));
    CO_TRY(const gpu::Buffer step, trial_buffer(device, std::vector<Step>{{.tokens = kRows}}));
    CO_TRY_VOID(co_await trial_run(device, sigmoid_gate_source(spec), {in, out, step},
                                   sigmoid_gate_groups(spec, kRows)));
    CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, out, wanted.size()));
    const double d = largest_difference(got, wanted);
    KERNEL_EXPECT(d < 200 * kTolerance, "differs by ", d);
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
