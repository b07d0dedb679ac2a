// Penalties, the greedy choice and the K largest logits against sorting on the CPU.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/kernels/sampling.h"
#include "engine/kernels/step.h"
#include "engine/kernels/trial_attention.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/variants.h"

namespace lapidary::kernels {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Larger logits first, then lower ids; NaN last.
std::vector<uint32_t> sorted_ids(const std::vector<float>& logits) {
  std::vector<uint32_t> ids(logits.size());
  for (uint32_t i = 0; i < ids.size(); ++i) ids[i] = i;
  const auto value = [&](uint32_t id) {
    return std::isnan(logits[id]) ? -std::numeric_limits<float>::infinity() : logits[id];
  };
  std::ranges::stable_sort(ids, [&](uint32_t a, uint32_t b) { return value(a) > value(b); });
  return ids;
}

Task<Status> check_argmax(gpu::Device& device, std::vector<float> logits,
                          std::vector<Variant> forms = {}) {
  if (forms.empty()) forms = variants(device);
  const auto vocab = static_cast<uint32_t>(logits.size());
  const uint32_t wanted = sorted_ids(logits)[0];
  for (Variant variant : forms) {
    const std::vector<Step> step = {{.position = 130}};
    CO_TRY(const gpu::Buffer buffer, trial_buffer(device, logits));
    CO_TRY(const gpu::Buffer runs, trial_zeros(device, argmax_partial_bytes(vocab)));
    CO_TRY(const gpu::Buffer tokens, trial_zeros(device, 16));
    CO_TRY(const gpu::Buffer results, trial_zeros(device, 4 * kResultSlots));
    CO_TRY(const gpu::Buffer step_buffer, trial_buffer(device, step));
    CO_TRY_VOID(co_await trial_run(device, argmax_partial_source(vocab, variant), {buffer, runs},
                                   argmax_groups(vocab)));
    CO_TRY_VOID(co_await trial_run(device, argmax_final_source(vocab, variant),
                                   {runs, tokens, results, step_buffer}, {1, 1, 1}));
    CO_TRY(const std::vector<uint32_t> token, co_await trial_read<uint32_t>(device, tokens, 4));
    CO_TRY(const std::vector<uint32_t> slots,
           co_await trial_read<uint32_t>(device, results, kResultSlots));
    CO_TRY(const std::vector<Step> after, co_await trial_read<Step>(device, step_buffer, 1));
    KERNEL_EXPECT(token[0] == wanted, token[0], " instead of ", wanted, " of ", vocab,
                  ", subgroups ", variant.subgroups);
    KERNEL_EXPECT(slots[130 % kResultSlots] == wanted, slots[130 % kResultSlots]);
    const auto untouched = static_cast<uint32_t>(std::ranges::count(slots, 0u));
    KERNEL_EXPECT(untouched >= kResultSlots - 1, "other slots were written");
    KERNEL_EXPECT(after[0].position == 131 && after[0].tokens == 1, after[0].position);
  }
  co_return Status{};
}

KERNEL_TEST(argmax_sizes) {
  for (const uint32_t vocab : {1u, 2u, 255u, 2048u, 2049u, 262'144u}) {
    CO_TRY_VOID(co_await check_argmax(device, TrialRandom(vocab).floats(vocab, 20.0f)));
  }
  co_return Status{};
}
KERNEL_TEST(argmax_ties_and_odd_values) {
  std::vector<float> logits(5000, 1.0f);
  CO_TRY_VOID(co_await check_argmax(device, logits));
  logits[4999] = logits[2047] = logits[2048] = 3.0f;
  CO_TRY_VOID(co_await check_argmax(device, logits));
  std::vector<float> zeros(300, 0.0f);
  std::fill(zeros.begin(), zeros.begin() + 100, -0.0f);
  CO_TRY_VOID(co_await check_argmax(device, zeros));
  std::vector<float> nans(600, kNan);
  CO_TRY_VOID(co_await check_argmax(device, nans));
  nans[300] = -1e30f;
  CO_TRY_VOID(co_await check_argmax(device, nans));
  co_return co_await check_argmax(device, {-2.0f, -1.5f, -3e38f});
}

// As real GPUs run it.
KERNEL_TEST(argmax_unrolled) {
  co_return co_await check_argmax(device, TrialRandom(9).floats(5000, 20.0f),
                                  unrolled_variants(device));
}

Task<Status> check_topk(gpu::Device& device, std::vector<float> logits, uint32_t k,
                        std::vector<Variant> forms = {}) {
  if (forms.empty()) forms = variants(device);
  const TopkSpec spec{.vocab = static_cast<uint32_t>(logits.size()), .k = k};
  const std::vector<uint32_t> ids = sorted_ids(logits);
  const uint32_t count = std::min(k, spec.vocab);
  const double top = logits[ids[0]];
  double sum = 0;
  for (const float l : logits) sum += std::isnan(l) ? 0.0 : std::exp(double{l} - top);
  for (Variant variant : forms) {
    CO_TRY(const gpu::Buffer buffer, trial_buffer(device, logits));
    CO_TRY(const gpu::Buffer partial, trial_zeros(device, topk_partial_bytes(spec)));
    CO_TRY(const gpu::Buffer candidates, trial_zeros(device, topk_bytes(k)));
    CO_TRY_VOID(co_await trial_run(device, topk_partial_source(spec, variant), {buffer, partial},
                                   topk_groups(spec.vocab)));
    CO_TRY_VOID(co_await trial_run(device, topk_final_source(spec, variant), {partial, candidates},
                                   {1, 1, 1}));
    CO_TRY(const std::vector<uint32_t> words,
           co_await trial_read<uint32_t>(device, candidates, topk_bytes(k) / 4));
    KERNEL_EXPECT(words[0] == count, words[0], " of ", spec.vocab);
    KERNEL_EXPECT(std::bit_cast<float>(words[1]) == logits[ids[0]], "the maximum is ",
                  std::bit_cast<float>(words[1]));
    const double error = std::abs(std::bit_cast<float>(words[2]) - (top + std::log(sum)));
    KERNEL_EXPECT(error < 1e-5 * std::max(1.0, std::abs(top)), "log-sum-exp is off by ", error);
    for (uint32_t i = 0; i < count; ++i) {
      const float logit = std::bit_cast<float>(words[5 + 2 * i]);
      KERNEL_EXPECT(words[4 + 2 * i] == ids[i], "rank ", i, " is ", words[4 + 2 * i],
                    " instead of ", ids[i], ", subgroups ", variant.subgroups);
      KERNEL_EXPECT(logit == logits[ids[i]] || std::isnan(logits[ids[i]]), "rank ", i, " has ",
                    logit);
    }
  }
  co_return Status{};
}

KERNEL_TEST(topk_sizes) {
  CO_TRY_VOID(co_await check_topk(device, {2.5f}, 64));
  CO_TRY_VOID(co_await check_topk(device, TrialRandom(1).floats(295, 10.0f), 1));
  CO_TRY_VOID(co_await check_topk(device, TrialRandom(2).floats(295, 10.0f), 256));
  CO_TRY_VOID(co_await check_topk(device, TrialRandom(3).floats(4097, 10.0f), 40));
  co_return co_await check_topk(device, TrialRandom(4).floats(70'001, 30.0f), 7);
}
KERNEL_TEST(topk_full_vocabulary) {
  CO_TRY_VOID(co_await check_topk(device, TrialRandom(5).floats(262'144, 30.0f), 64));
  co_return co_await check_topk(device, TrialRandom(6).floats(262'144, 30.0f), 256);
}
KERNEL_TEST(topk_ties_and_odd_values) {
  CO_TRY_VOID(co_await check_topk(device, std::vector<float>(9000, -1.25f), 100));
  // All of the best in one run, and many of equal value across runs.
  std::vector<float> logits(20'000, 0.5f);
  for (uint32_t i = 0; i < 60; ++i) logits[8200 + 13 * i] = 2.0f;
  CO_TRY_VOID(co_await check_topk(device, logits, 64));
  std::vector<float> odd = TrialRandom(7).floats(5000, 1.0f);
  odd[10] = kNan;
  odd[11] = kSuppressed;
  odd[12] = -0.0f;
  odd[13] = 0.0f;
  odd[4999] = 30.0f;
  CO_TRY_VOID(co_await check_topk(device, odd, 256));
  co_return co_await check_topk(device, {kNan, 1.0f, kNan, 2.0f}, 4);
}

KERNEL_TEST(topk_unrolled) {
  co_return co_await check_topk(device, TrialRandom(10).floats(5000, 10.0f), 40,
                                unrolled_variants(device));
}

KERNEL_TEST(adjust_logits) {
  constexpr uint32_t kVocab = 1000;
  const std::vector<float> logits = TrialRandom(8).floats(kVocab, 10.0f);
  const AdjustParams params{
      .entries = 130, .repeat_penalty = 1.3f, .presence_penalty = 0.5f, .frequency_penalty = 0.25f};
  std::vector<AdjustEntry> entries;
  std::vector<double> wanted(logits.begin(), logits.end());
  for (uint32_t i = 0; i < params.entries; ++i) {
    AdjustEntry entry{.id = 7 * i, .count = static_cast<float>(i % 4)};
    if (i % 3 == 0) entry.bias = i % 2 == 0 ? -2.5f : kSuppressed;
    if (i == 129) entry.id = kVocab;  // outside: ignored
    entries.push_back(entry);
    if (entry.id >= kVocab) continue;
    double& l = wanted[entry.id];
    if (entry.count > 0) {
      l = l > 0 ? l / 1.3 : l * 1.3;
      l -= entry.count * 0.25 + 0.5;
    }
    l = std::max(l + entry.bias, -1e30);
    if (entry.bias == kSuppressed) l = kSuppressed;
  }
  entries.push_back({.id = 1, .count = 5, .bias = 9});  // past params.entries
  CO_TRY(const gpu::Buffer buffer, trial_buffer(device, logits));
  CO_TRY(const gpu::Buffer list, trial_buffer(device, entries));
  CO_TRY(const gpu::Buffer uniform, trial_buffer(device, std::vector<AdjustParams>{params}));
  CO_TRY_VOID(co_await trial_run(device, adjust_source(kVocab, {}), {buffer, list, uniform},
                                 adjust_groups(params.entries)));
  CO_TRY(const std::vector<float> got, co_await trial_read<float>(device, buffer, kVocab));
  for (uint32_t i = 0; i < kVocab; ++i) {
    KERNEL_EXPECT(std::abs(got[i] - wanted[i]) <= 1e-5 * std::max(1.0, std::abs(wanted[i])), "id ",
                  i, ": ", got[i], " instead of ", wanted[i]);
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::kernels
