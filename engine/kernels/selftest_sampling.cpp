// The self-test of the greedy choice, of the K largest logits and of the draw.
#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/sampling.h"
#include "engine/kernels/selftest.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"

namespace lapidary::kernels {
namespace {

// Three runs of top-k, the last one short; ties across and within runs.
constexpr uint32_t kVocab = 8192 + 5;
constexpr uint32_t kBest = 20;

std::unexpected<Error> wrong(std::string_view family, uint32_t got, uint32_t wanted) {
  return fail(ErrorCode::kSelfTest,
              cat("this GPU computes ", family, " wrongly (", got, " instead of ", wanted,
                  "); update the graphics driver or choose another GPU"));
}

}  // namespace

Task<Status> selftest_sampling(gpu::Device& device, Variant variant) {
  std::vector<float> logits(kVocab);
  TrialRandom random(21);
  for (float& l : logits) l = static_cast<float>(random.bits() % 1500) / 64.0f - 12.0f;
  std::vector<uint32_t> order(kVocab);
  for (uint32_t i = 0; i < kVocab; ++i) order[i] = i;
  std::ranges::stable_sort(order, [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  double sum = 0;
  for (const float l : logits) sum += std::exp(double{l});

  const std::vector<Step> step = {{.position = 70}};
  CO_TRY(const gpu::Buffer logits_buffer, trial_buffer(device, logits));
  CO_TRY(const gpu::Buffer runs, trial_zeros(device, argmax_partial_bytes(kVocab)));
  CO_TRY(const gpu::Buffer tokens, trial_zeros(device, 4));
  CO_TRY(const gpu::Buffer results, trial_zeros(device, 4 * kResultSlots));
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY_VOID(co_await trial_run(device, argmax_partial_source(kVocab, variant),
                                 {logits_buffer, runs}, argmax_groups(kVocab)));
  CO_TRY_VOID(co_await trial_run(device, argmax_final_source(kVocab, variant),
                                 {runs, tokens, results, step_buffer}, {1, 1, 1}));
  CO_TRY(const std::vector<uint32_t> slots,
         co_await trial_read<uint32_t>(device, results, kResultSlots));
  if (slots[70 % kResultSlots] != order[0])
    co_return wrong("argmax", slots[70 % kResultSlots], order[0]);

  const TopkSpec spec{.vocab = kVocab, .k = kBest};
  CO_TRY(const gpu::Buffer partial, trial_zeros(device, topk_partial_bytes(spec)));
  CO_TRY(const gpu::Buffer candidates, trial_zeros(device, topk_bytes(kBest)));
  // A draw in the middle of the five best at temperature 0.5.
  const std::vector<SampleParams> params = {{.temperature = 0.5f, .top_k = 5}};
  std::vector<Draw> draws(kDrawSlots);
  draws[71].first = 0x80000000;
  CO_TRY(const gpu::Buffer params_buffer, trial_buffer(device, params));
  CO_TRY(const gpu::Buffer draws_buffer, trial_buffer(device, draws));
  CO_TRY_VOID(co_await trial_run(device, topk_source(spec, variant),
                                 {logits_buffer, partial, params_buffer}, topk_groups(kVocab)));
  CO_TRY_VOID(co_await trial_run(device, sample_source(spec, variant),
                                 {partial, candidates, logits_buffer, params_buffer, draws_buffer,
                                  tokens, results, step_buffer},
                                 {1, 1, 1}));
  CO_TRY(const std::vector<uint32_t> words,
         co_await trial_read<uint32_t>(device, candidates, topk_bytes(kBest) / 4));
  if (words[0] != kBest) co_return wrong("the number of best logits", words[0], kBest);
  const double log_sum_exp = std::bit_cast<float>(words[2]);
  if (!(std::abs(log_sum_exp - std::log(sum)) < 1e-4)) {
    co_return fail(ErrorCode::kSelfTest,
                   cat("this GPU sums exponentials wrongly (", log_sum_exp, " instead of ",
                       std::log(sum), "); update the graphics driver"));
  }
  for (uint32_t i = 0; i < kBest; ++i) {
    if (words[8 + 2 * i] != order[i]) co_return wrong("top-k", words[8 + 2 * i], order[i]);
  }
  double total = 0;
  for (uint32_t i = 0; i < 5; ++i) total += std::exp(2.0 * logits[order[i]]);
  double below = 0;
  uint32_t middle = 0;
  while ((below += std::exp(2.0 * logits[order[middle]])) < total / 2) ++middle;
  if (words[3] != order[middle]) co_return wrong("a draw", words[3], order[middle]);
  co_return Status{};
}

}  // namespace lapidary::kernels
