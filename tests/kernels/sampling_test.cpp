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

constexpr uint32_t kSlice = 4096;  // logits of a run of top-k
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

// The buffers of a draw, and its two kernels.
struct Sampling {
  gpu::Buffer logits, partial, candidates, params, draws, tokens, results, step;
  gpu::Kernel topk, sample;
  uint32_t vocab = 0;

  static Task<Result<Sampling>> create(gpu::Device& device, const std::vector<float>& logits,
                                       uint32_t k, const SampleParams& params,
                                       const std::vector<Draw>& draws, uint32_t position,
                                       const Variant& variant) {
    Sampling s;
    s.vocab = static_cast<uint32_t>(logits.size());
    const TopkSpec spec{.vocab = s.vocab, .k = k};
    CO_TRY(s.logits, trial_buffer(device, logits));
    CO_TRY(s.partial, trial_zeros(device, topk_partial_bytes(spec)));
    CO_TRY(s.candidates, trial_zeros(device, topk_bytes(k)));
    CO_TRY(s.params, trial_buffer(device, std::vector<SampleParams>{params}));
    CO_TRY(s.draws, trial_buffer(device, draws));
    CO_TRY(s.tokens, trial_zeros(device, 16));
    CO_TRY(s.results, trial_zeros(device, 4 * kResultSlots));
    CO_TRY(s.step, trial_buffer(device, std::vector<Step>{{.position = position}}));
    CO_TRY(s.topk, co_await trial_kernel(device, topk_source(spec, variant)));
    CO_TRY(s.sample, co_await trial_kernel(device, sample_source(spec, variant)));
    CO_TRY_VOID(trial_dispatch(device, s.topk,
                               std::vector<gpu::Range>{s.logits, s.partial, s.params},
                               topk_groups(s.vocab)));
    co_return std::move(s);
  }
  // The words of the candidates.
  Task<Result<std::vector<uint32_t>>> run(gpu::Device& device) {
    CO_TRY_VOID(trial_dispatch(
        device, sample,
        std::vector<gpu::Range>{partial, candidates, logits, params, draws, tokens, results, step},
        {}));
    co_return co_await trial_read<uint32_t>(device, candidates, candidates.size() / 4);
  }
};

Task<Status> check_topk(gpu::Device& device, std::vector<float> logits, uint32_t k,
                        std::vector<Variant> forms = {}, uint32_t want = kMaxTopK) {
  if (forms.empty()) forms = variants(device);
  const auto vocab = static_cast<uint32_t>(logits.size());
  const std::vector<uint32_t> ids = sorted_ids(logits);
  const uint32_t count = std::min({k, want, vocab});
  const double top = logits[ids[0]];
  double sum = 0;
  for (const float l : logits) sum += std::isnan(l) ? 0.0 : std::exp(double{l} - top);
  for (Variant variant : forms) {
    CO_TRY(Sampling sampling, co_await Sampling::create(device, logits, k, {.want = want},
                                                        std::vector<Draw>(kDrawSlots), 0, variant));
    CO_TRY(const std::vector<uint32_t> words, co_await sampling.run(device));
    KERNEL_EXPECT(words[0] == count, words[0], " of ", vocab);
    KERNEL_EXPECT(std::bit_cast<float>(words[1]) == logits[ids[0]], "the maximum is ",
                  std::bit_cast<float>(words[1]));
    const double error = std::abs(std::bit_cast<float>(words[2]) - (top + std::log(sum)));
    KERNEL_EXPECT(error < 1e-5 * std::max(1.0, std::abs(top)), "log-sum-exp is off by ", error);
    for (uint32_t i = 0; i < count; ++i) {
      const float logit = std::bit_cast<float>(words[9 + 2 * i]);
      KERNEL_EXPECT(words[8 + 2 * i] == ids[i], "rank ", i, " is ", words[8 + 2 * i],
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
  CO_TRY_VOID(co_await check_topk(device, TrialRandom(6).floats(262'144, 30.0f), 256));
  // Fewer than there is room for.
  co_return co_await check_topk(device, TrialRandom(11).floats(262'144, 30.0f), 256, {}, 40);
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

// What a draw must give, in double: the tokens that may come in the order in which the draw counts
// them, or nothing when the candidates do not decide it.
struct Outcome {
  bool decided = true;
  std::vector<uint32_t> ids;
};
Outcome outcome(const std::vector<float>& logits, const SampleParams& p) {
  Outcome out{.ids = sorted_ids(logits)};
  const auto vocab = static_cast<uint32_t>(logits.size());
  if (p.top_k == 0 && p.top_p >= 1 && p.min_p <= 0) {
    std::ranges::sort(out.ids);
    return out;
  }
  const double best = logits[out.ids[0]];
  const auto probability = [&](uint32_t rank) { return std::exp(logits[out.ids[rank]] - best); };
  size_t kept = p.top_k > 0 ? std::min(p.top_k, vocab) : vocab;
  double mass = 0;
  for (uint32_t i = 0; i < kept; ++i) mass += probability(i);
  if (p.top_p < 1) {
    double sum = 0;
    for (uint32_t i = 0; i < kept; ++i) {
      sum += probability(i);
      if (sum >= p.top_p * mass) kept = i + 1;
    }
  }
  for (uint32_t i = 1; i < kept; ++i) {
    if (probability(i) < p.min_p) kept = i;
  }
  const size_t candidates = std::min({p.want, kMaxTopK, vocab});
  out.decided = std::max<size_t>(kept, std::min(p.top_k, vocab)) <= candidates;
  out.ids.resize(kept);
  return out;
}

Task<Status> check_draw(gpu::Device& device, const std::vector<float>& logits,
                        const SampleParams& p, std::vector<Variant> forms = {}) {
  if (forms.empty()) forms = variants(device);
  const auto vocab = static_cast<uint32_t>(logits.size());
  const Outcome wanted = outcome(logits, p);
  const double best = logits[sorted_ids(logits)[0]];
  const auto weight = [&](uint32_t id) { return std::exp((logits[id] - best) / p.temperature); };
  double total = 0;
  for (const uint32_t id : wanted.ids) total += weight(id);
  TrialRandom random(vocab);
  std::vector<Draw> draws(kDrawSlots);
  for (Draw& draw : draws) draw = {random.bits(), random.bits()};
  draws[5] = {0, 0};
  draws[6] = {0xffffffff, 0xffffffff};
  for (const Variant variant : forms) {
    constexpr uint32_t kFirst = kDrawSlots + 4;
    CO_TRY(Sampling sampling, co_await Sampling::create(device, logits, std::min(kMaxTopK, vocab),
                                                        p, draws, kFirst, variant));
    for (uint32_t position = kFirst; position < kFirst + 20; ++position) {
      CO_TRY(const std::vector<uint32_t> header, co_await sampling.run(device));
      CO_TRY(const std::vector<uint32_t> token,
             co_await trial_read<uint32_t>(device, sampling.tokens, 1));
      CO_TRY(const std::vector<uint32_t> slots,
             co_await trial_read<uint32_t>(device, sampling.results, kResultSlots));
      const uint32_t id = header[3];
      KERNEL_EXPECT(slots[position % kResultSlots] == id, "the result is ",
                    slots[position % kResultSlots], " instead of ", id);
      if (!wanted.decided) {
        KERNEL_EXPECT(id == kNoToken && token[0] == 0, "drew ", id, " where more could come");
        continue;
      }
      KERNEL_EXPECT(token[0] == id && std::bit_cast<float>(header[4]) == logits[id], token[0]);
      // Where the token lies in the unit interval, and where the draw does. With no cut the first
      // bits tell the run of logits and the second ones the place in it.
      const Draw& draw = draws[position % kDrawSlots];
      const double first = (draw.first >> 9) * 0x1p-23;
      const double second = (draw.second >> 9) * 0x1p-23;
      const bool all = wanted.ids.size() == vocab && p.top_k == 0 && p.top_p >= 1 && p.min_p <= 0;
      double before = 0, run_before = 0, run_mass = 0;
      for (const uint32_t other : wanted.ids) {
        if (all && other / kSlice < id / kSlice) run_before += weight(other);
        if (all && other / kSlice == id / kSlice) {
          run_mass += weight(other);
          if (other < id) before += weight(other);
        }
        if (!all && other == id) break;
        if (!all) before += weight(other);
      }
      const auto within = [](double x, double low, double high) {
        return x > low - 1e-5 && x < high + 1e-5;
      };
      KERNEL_EXPECT(weight(id) > 0, id, " has no weight");
      if (all) {
        KERNEL_EXPECT(within(first, run_before / total, (run_before + run_mass) / total) &&
                          within(second, before / run_mass, (before + weight(id)) / run_mass),
                      "drew ", id, " with ", first, " and ", second, " from a run at ",
                      run_before / total);
      } else {
        KERNEL_EXPECT(std::ranges::find(wanted.ids, id) != wanted.ids.end(), id, " was cut away");
        KERNEL_EXPECT(within(first, before / total, (before + weight(id)) / total), "drew ", id,
                      " at ", before / total, " with ", first);
      }
    }
  }
  co_return Status{};
}

KERNEL_TEST(draw_under_cuts) {
  const std::vector<float> logits = TrialRandom(12).floats(9001, 12.0f);
  for (const SampleParams& p : std::vector<SampleParams>{
           {.temperature = 1.0f, .top_k = 64, .top_p = 0.95f, .want = 64},
           {.temperature = 0.3f, .top_k = 5, .want = 5},
           {.temperature = 1e-3f, .top_k = 40},
           {.temperature = 2.0f, .top_p = 0.01f},
           {.temperature = 1.5f, .min_p = 0.5f},
           {.temperature = 1.0f, .top_k = 40, .top_p = 0.6f, .min_p = 0.3f},
           // More may come than there are candidates.
           {.temperature = 1.0f, .top_p = 0.999f},
           {.temperature = 1.0f, .min_p = 1e-4f},
           {.temperature = 1.0f, .top_k = 300},
           {.temperature = 1.0f, .top_k = 5, .top_p = 0.1f, .want = 4},
           {.temperature = 1.0f, .top_k = 4, .want = 4},
       }) {
    CO_TRY_VOID(co_await check_draw(device, logits, p));
  }
  // The whole vocabulary is among the candidates.
  const std::vector<float> few = TrialRandom(13).floats(100, 3.0f);
  CO_TRY_VOID(co_await check_draw(device, few, {.temperature = 1.0f, .top_k = 200}));
  co_return co_await check_draw(device, few, {.temperature = 1.0f, .top_p = 0.9f});
}
KERNEL_TEST(draw_from_all) {
  std::vector<float> logits = TrialRandom(14).floats(9001, 2.0f);
  logits[17] = kSuppressed;
  CO_TRY_VOID(co_await check_draw(device, logits, {.temperature = 1.0f, .want = 1}));
  CO_TRY_VOID(co_await check_draw(device, logits, {.temperature = 0.2f, .want = 1}));
  std::vector<float> one(9000, kSuppressed);
  one[8999] = -3.0f;
  CO_TRY_VOID(co_await check_draw(device, one, {.temperature = 1.0f, .want = 1}));
  co_return co_await check_draw(device, {1.0f}, {.temperature = 1.0f, .want = 1});
}
KERNEL_TEST(draw_unrolled) {
  const std::vector<float> logits = TrialRandom(15).floats(262'144, 8.0f);
  CO_TRY_VOID(co_await check_draw(device, logits, {.temperature = 0.7f, .want = 1},
                                  unrolled_variants(device)));
  co_return co_await check_draw(device, logits, {.temperature = 1.0f, .top_k = 64, .top_p = 0.9f},
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
