// Self-test of the choice of a token: argmax with ties, the K largest, and the log-sum-exp of all.
#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/sampling.h"
#include "engine/kernels/selftest.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial.h"

namespace lapidary::kernels {
namespace {

constexpr uint32_t kVocab = 3001;

Status wrong(std::string_view what, double got, double want) {
  return fail(ErrorCode::kSelfTest, cat("this GPU finds ", what, " wrongly (", got, " instead of ",
                                        want, "); update its driver"));
}

}  // namespace

Task<Status> selftest_sampling(gpu::Device& device, Variant variant) {
  std::vector<float> logits = TrialRandom(21).floats(kVocab, 8.0f);
  logits[1500] = logits[2900] = 9.5f;  // a tie at the top: the lower id wins
  CO_TRY(const gpu::Buffer logit_buffer, trial_buffer(device, logits));

  CO_TRY(const gpu::Buffer partial, trial_zeros(device, argmax_partial_bytes(kVocab)));
  CO_TRY(const gpu::Buffer tokens, trial_zeros(device, 16));
  CO_TRY(const gpu::Buffer results, trial_zeros(device, kResultSlots * 4));
  const std::vector<Step> step = {{.position = 5}};
  CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
  CO_TRY_VOID(co_await trial_run(device, argmax_partial_source(kVocab, variant),
                                 {logit_buffer, partial}, argmax_groups(kVocab)));
  CO_TRY_VOID(co_await trial_run(device, argmax_final_source(kVocab, variant),
                                 {partial, tokens, results, step_buffer}, {}));
  CO_TRY(const std::vector<uint32_t> token, co_await trial_read<uint32_t>(device, tokens, 1));
  CO_TRY(const std::vector<uint32_t> slots,
         co_await trial_read<uint32_t>(device, results, kResultSlots));
  CO_TRY(const std::vector<uint32_t> after, co_await trial_read<uint32_t>(device, step_buffer, 1));
  if (token[0] != 1500 || slots[5] != 1500) co_return wrong("the largest logit", token[0], 1500);
  if (after[0] != 6) co_return wrong("the next position", after[0], 6);

  const TopkSpec spec{.vocab = kVocab, .k = 32};
  CO_TRY(const gpu::Buffer topk, trial_zeros(device, topk_partial_bytes(spec)));
  CO_TRY(const gpu::Buffer candidates, trial_zeros(device, topk_bytes(spec.k)));
  CO_TRY_VOID(co_await trial_run(device, topk_partial_source(spec, variant), {logit_buffer, topk},
                                 topk_groups(kVocab)));
  CO_TRY_VOID(co_await trial_run(device, topk_final_source(spec, variant), {topk, candidates}, {}));
  CO_TRY(const std::vector<TopkHeader> header,
         co_await trial_read<TopkHeader>(device, candidates, 1));
  CO_TRY(const std::vector<TopkPair> all,
         co_await trial_read<TopkPair>(device, candidates, 2 + spec.k));
  std::vector<TopkPair> order(kVocab);
  double sum = 0;
  for (uint32_t i = 0; i < kVocab; ++i) {
    order[i] = {i, logits[i]};
    sum += std::exp(double{logits[i]});
  }
  std::ranges::sort(order, [](const TopkPair& a, const TopkPair& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  if (header[0].count != spec.k)
    co_return wrong("how many candidates there are", header[0].count, spec.k);
  if (!(std::fabs(header[0].log_sum_exp - std::log(sum)) <= 1e-3)) {
    co_return wrong("the sum of the logits' exponentials", header[0].log_sum_exp, std::log(sum));
  }
  for (uint32_t i = 0; i < spec.k; ++i) {
    // The header is as long as two pairs.
    if (all[2 + i].id != order[i].id)
      co_return wrong("the largest logits", all[2 + i].id, order[i].id);
  }
  co_return Status{};
}

}  // namespace lapidary::kernels
