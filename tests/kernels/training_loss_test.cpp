// The cross-entropy over chunks of the vocabulary: the loss and its gradients against f64 loops.
#include <algorithm>
#include <cmath>

#include "engine/kernels/loss.h"
#include "tests/kernels/training_check.h"

namespace lapidary::kernels {
namespace {

constexpr float kFactor = 0.125f;
constexpr float kBefore = 0.5f;   // in the loss, which is added to
constexpr float kBeyond = 3e38f;  // behind the words of a short chunk, where nothing may look
constexpr uint32_t kUnsupervised = 0xFFFFFFFF;

struct LossCase {
  LossSpec spec;
  uint32_t rows = 5;
  float scale = 4;
  bool extreme = false;  // rows that are constant, or that one word rules
};

struct LossData {
  std::vector<float> logits;  // [rows][vocab]
  std::vector<uint32_t> targets;
};

LossData data_of(const LossCase& c) {
  const uint32_t vocab = c.spec.vocab;
  TrialRandom random(vocab + c.rows);
  LossData data{.logits = random.floats(size_t{c.rows} * vocab, c.scale), .targets = {}};
  for (uint32_t r = 0; r < c.rows; ++r) {
    const auto row = data.logits.begin() + size_t{r} * vocab;
    switch (r % 5) {
      case 0:
        data.targets.push_back(vocab - 1);
        if (c.extreme) std::fill_n(row, vocab, -c.scale);
        break;
      case 1:
        data.targets.push_back(kUnsupervised);
        break;
      case 2:
        data.targets.push_back(0);
        if (c.extreme) {
          std::fill_n(row, vocab, -c.scale);
          row[vocab / 2] = c.scale;
        }
        break;
      case 3:
        data.targets.push_back(vocab);
        break;
      default:
        data.targets.push_back(random.bits() % vocab);
    }
  }
  return data;
}

// A row's loss, and for each word the softmax and the slope of the softcap.
struct RowOracle {
  double loss = 0;
  std::vector<double> p, slope;
};
RowOracle oracle(const float* logits, uint32_t vocab, double cap, uint32_t target) {
  RowOracle out;
  double largest = -INFINITY;
  for (uint32_t w = 0; w < vocab; ++w) {
    const double y = cap > 0 ? cap * std::tanh(logits[w] / cap) : logits[w];
    out.p.push_back(y);
    out.slope.push_back(cap > 0 ? 1 - (y / cap) * (y / cap) : 1);
    largest = std::max(largest, y);
  }
  double sum = 0;
  for (const double y : out.p) sum += std::exp(y - largest);
  if (target < vocab) out.loss = largest + std::log(sum) - out.p[target];
  for (double& y : out.p) y = std::exp(y - largest) / sum;
  return out;
}

Task<Status> check_loss(gpu::Device& device, LossCase c, Variant variant) {
  const auto [vocab, chunk, cap] = c.spec;
  const LossData data = data_of(c);
  CO_TRY(const gpu::Kernel sum,
         co_await trial_kernel(device, cross_entropy_sum_source(c.spec, variant)));
  CO_TRY(const gpu::Kernel loss,
         co_await trial_kernel(device, cross_entropy_loss_source(c.spec, variant)));
  CO_TRY(const gpu::Kernel back,
         co_await trial_kernel(device, cross_entropy_back_source(c.spec, variant)));
  // What an earlier batch left behind in the state counts for nothing.
  CO_TRY(const gpu::Buffer state,
         trial_buffer(device, std::vector<float>(size_t{c.rows} * 4, 77.0f)));
  CO_TRY(const gpu::Buffer targets, trial_buffer(device, data.targets));
  CO_TRY(const gpu::Buffer total, trial_buffer(device, std::vector<float>{kBefore}));
  CO_TRY(const gpu::Buffer params, trial_buffer(device, std::vector<float>{kFactor}));
  CO_TRY(const gpu::Buffer logits, trial_zeros(device, uint64_t{4} * c.rows * chunk));
  CO_TRY(const gpu::Buffer step, trial_zeros(device, sizeof(Step)));

  const auto load_chunk = [&](uint32_t first, uint32_t words) {
    std::vector<float> part(size_t{c.rows} * chunk, kBeyond);
    for (uint32_t r = 0; r < c.rows; ++r)
      std::copy_n(data.logits.begin() + size_t{r} * vocab + first, words,
                  part.begin() + size_t{r} * chunk);
    const Step at{.position = first, .tokens = c.rows, .spans = words};
    device.write(logits, 0, std::as_bytes(std::span(part)));
    device.write(step, 0, std::as_bytes(std::span(&at, 1)));
  };
  for (uint32_t first = 0; first < vocab; first += chunk) {
    load_chunk(first, std::min(chunk, vocab - first));
    const std::vector<gpu::Range> ranges = {logits, targets, state, step};
    CO_TRY_VOID(trial_dispatch(device, sum, ranges, cross_entropy_sum_groups(c.rows)));
  }
  const std::vector<gpu::Range> ranges = {targets, state, total, params, step};
  CO_TRY_VOID(trial_dispatch(device, loss, ranges, {}));

  std::vector<RowOracle> rows;
  double wanted = kBefore;
  for (uint32_t r = 0; r < c.rows; ++r) {
    rows.push_back(oracle(data.logits.data() + size_t{r} * vocab, vocab, cap, data.targets[r]));
    wanted += kFactor * rows.back().loss;
  }
  CO_TRY(const std::vector<float> got_loss, co_await trial_read<float>(device, total, 1));
  KERNEL_EXPECT(std::fabs(got_loss[0] - wanted) <= 1e-5 * std::fmax(1, std::fabs(wanted)),
                sum.label, ": a loss of ", got_loss[0], " instead of ", wanted);

  // exp's error grows with its argument, and the softcap magnifies tanh's.
  const double tolerance = cap > 0 ? 2e-4 : 5e-5;
  for (uint32_t first = 0; first < vocab; first += chunk) {
    const uint32_t words = std::min(chunk, vocab - first);
    load_chunk(first, words);
    const std::vector<gpu::Range> bound = {logits, targets, state, params, step};
    CO_TRY_VOID(trial_dispatch(device, back, bound, cross_entropy_back_groups(c.spec, c.rows)));
    CO_TRY(const std::vector<float> got,
           co_await trial_read<float>(device, logits, size_t{c.rows} * chunk));
    for (uint32_t r = 0; r < c.rows; ++r) {
      for (uint32_t w = 0; w < chunk; ++w) {
        const float g = got[size_t{r} * chunk + w];
        if (w >= words) {
          KERNEL_EXPECT(g == kBeyond, back.label, ": writes beyond the vocabulary: ", g);
          continue;
        }
        if (data.targets[r] >= vocab) {
          KERNEL_EXPECT(g == 0, back.label, ": a masked row ", r, " has a gradient of ", g);
          continue;
        }
        const bool own = first + w == data.targets[r];
        const double p = rows[r].p[first + w];
        const double want = kFactor * (p - (own ? 1 : 0)) * rows[r].slope[first + w];
        // f32 has nothing below 1e-38, and GPUs may flush there.
        const double most = kFactor * (tolerance * p + (own ? 1e-5 : 0)) + 1e-36;
        KERNEL_EXPECT(std::fabs(g - want) <= most, back.label, ", row ", r, ", word ", first + w,
                      ": ", g, " instead of ", want);
      }
    }
  }
  co_return Status{};
}

KERNEL_TEST(training_loss_small_vocabularies) {
  const Variant variant = variants(device).back();
  CO_TRY_VOID(
      co_await check_loss(device, {.spec = {.vocab = 1, .chunk = 256}, .rows = 4}, variant));
  // More rows than the loss has threads, a chunk that the vocabulary fills.
  co_return co_await check_loss(device, {.spec = {.vocab = 7, .chunk = 7, .cap = 5}, .rows = 300},
                                variant);
}
KERNEL_TEST(training_loss_short_last_chunk) {
  for (const Variant& variant : variants(device)) {
    CO_TRY_VOID(
        co_await check_loss(device, {.spec = {.vocab = 1000, .chunk = 256, .cap = 30}}, variant));
    CO_TRY_VOID(co_await check_loss(device, {.spec = {.vocab = 1000, .chunk = 256}}, variant));
  }
  co_return Status{};
}
KERNEL_TEST(training_loss_huge_logits) {
  const Variant variant = variants(device).front();
  for (const float cap : {0.0f, 30.0f})
    CO_TRY_VOID(co_await check_loss(
        device, {.spec = {.vocab = 1000, .chunk = 256, .cap = cap}, .scale = 1e4f, .extreme = true},
        variant));
  co_return Status{};
}
KERNEL_TEST(training_loss_vocabulary_of_gemma) {
  co_return co_await check_loss(
      device, {.spec = {.vocab = 262'144, .chunk = 40'000, .cap = 30}, .rows = 3, .scale = 20},
      variants(device).back());
}

}  // namespace
}  // namespace lapidary::kernels
