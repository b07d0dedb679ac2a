#include "engine/model/tuner.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/quantize.h"

namespace lapidary::model {
namespace {

using kernels::Dot;
using kernels::MatmulSpec;
using kernels::MatmulTiling;
using kernels::MatvecSpec;
using kernels::MatvecTiling;

// Layers whose matrices a trial reads in turn, so that they do not all lie in the GPU's cache.
constexpr size_t kMaxUses = 40;
// A timed submission takes about so long, in milliseconds, unless one product takes longer; and
// has no more products than this.
constexpr double kTimed = 4;
constexpr double kMaxTurns = 96;
// A product of so many milliseconds is long enough to be timed once.
constexpr double kSlow = 20;
// No submission of several turns is shorter, in milliseconds.
constexpr double kShortest = 1e-3;
// Turns by which a submission is made longer, to tell what a turn takes from what waiting for any
// submission takes: in a browser that is several milliseconds.
constexpr double kMoreTurns = 8;
constexpr int kTimes = 4;
// A cut must take less than this share of the usual one's time to take its place: less is noise,
// and alone a product meets other caches than between its neighbours.
constexpr double kGain = 0.93;
// Values of y that are compared, and how far sums in another order may differ.
constexpr uint32_t kCompared = 4096;
constexpr float kTolerance = 1e-3f;
// The same for activations in one byte against f32.
constexpr float kInt8Tolerance = 3e-2f;
// The same for activations and weights in halves, each off by 2^-10 of itself at most.
constexpr float kMatrixTolerance = 2e-3f;

float tolerance_of(Dot form) {
  if (form == Dot::kInt8) return kInt8Tolerance;
  return form == Dot::kMatrix ? kMatrixTolerance : kTolerance;
}

MatvecTiling matvec_tiling(const Cut& cut) {
  return {.threads = cut[0], .lanes = cut[1], .rows = cut[2]};
}
Cut cut_of(const MatvecTiling& t) { return {t.threads, t.lanes, t.rows}; }
MatmulTiling matmul_tiling(const Cut& cut) { return {.threads = cut[0], .rows = cut[1]}; }
Dot matmul_form(const Cut& cut) { return static_cast<Dot>(cut[2]); }
Cut cut_of(const MatmulTiling& t, Dot form) {
  return {t.threads, t.rows, static_cast<uint32_t>(form)};
}

// Sets the cut of a matmul if it is one of its cuts.
bool set_cut(MatmulSpec& spec, const Cut& cut, const std::vector<Dot>& forms,
             uint32_t workgroup_storage) {
  const Dot form = matmul_form(cut);
  if (std::ranges::find(forms, form) == forms.end() ||
      !fits(matmul_tiling(cut), form, workgroup_storage))
    return false;
  spec.tiling = matmul_tiling(cut);
  spec.dot = form;
  return true;
}

// What is wrong with y, where it should be `usual`; empty when nothing is.
std::string difference(const std::vector<float>& y, const std::vector<float>& usual,
                       float tolerance) {
  float most = 0;
  float off = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    most = std::max(most, std::fabs(usual[i]));
    off = std::max(off, std::isnan(y[i]) ? INFINITY : std::fabs(y[i] - usual[i]));
  }
  return off <= tolerance * most ? "" : cat("its sums are off by ", off, " of ", most);
}

}  // namespace

void Tuner::use(MatvecSpec& spec, const std::vector<gpu::Range>& ranges) {
  std::string key = tuning_key(spec, variant_);
  if (const Cut* known = find(key); known && fits(spec, matvec_tiling(*known), variant_)) {
    spec.tiling = matvec_tiling(*known);
  } else {
    note({.key = std::move(key), .spec = spec}, ranges);
  }
}

void Tuner::use(MatmulSpec& spec, const std::vector<gpu::Range>& ranges,
                const gpu::Buffer& quantized) {
  const std::vector<Dot> forms = matmul_forms(spec.segments, variant_);
  spec.dot = forms[0];
  spec.light = variant_.light;
  std::string key = tuning_key(spec, variant_);
  const Cut* known = find(key);
  if (known && set_cut(spec, *known, forms, device_.info().max_workgroup_storage)) return;
  note({.key = std::move(key), .spec = spec, .quantized = &quantized}, ranges);
}

const Cut* Tuner::find(std::string_view key) const {
  const auto known = cuts_.find(key);
  return known == cuts_.end() ? nullptr : &known->second;
}

void Tuner::note(Product noted, const std::vector<gpu::Range>& ranges) {
  auto product = std::ranges::find(products_, noted.key, &Product::key);
  if (product == products_.end()) {
    products_.push_back(std::move(noted));
    product = products_.end() - 1;
  }
  product->weights +=
      std::visit([](const auto& s) { return uint64_t{kernels::total_rows(s.segments)} * s.cols; },
                 product->spec);
  if (product->uses.size() < kMaxUses) product->uses.push_back(ranges);
}

// The usual cut first, then those beside it.
std::vector<Cut> Tuner::candidates(const Spec& spec) const {
  std::vector<Cut> cuts;
  const auto add = [&](const Cut& cut) {
    if (std::ranges::find(cuts, cut) == cuts.end()) cuts.push_back(cut);
  };
  if (const auto* matmul = std::get_if<MatmulSpec>(&spec)) {
    add(cut_of(matmul->tiling, matmul->dot));
    for (const Dot form : matmul_forms(matmul->segments, variant_)) {
      for (const MatmulTiling& tiling : kernels::kMatmulTilings) {
        if (fits(tiling, form, device_.info().max_workgroup_storage)) add(cut_of(tiling, form));
      }
    }
    return cuts;
  }
  const auto& matvec = std::get<MatvecSpec>(spec);
  const MatvecTiling usual = tiling_of(matvec);
  add(cut_of(usual));
  const MatvecTiling near[] = {
      {usual.threads, usual.lanes, usual.rows * 2}, {usual.threads, usual.lanes, usual.rows / 2},
      {usual.threads / 2, usual.lanes, usual.rows}, {usual.threads * 2, usual.lanes, usual.rows},
      {usual.threads, usual.lanes / 2, usual.rows}, {usual.threads, usual.lanes * 2, usual.rows},
  };
  for (const MatvecTiling& tiling : near) {
    if (fits(matvec, tiling, variant_)) add(cut_of(tiling));
  }
  return cuts;
}

// What computes the product with that cut; its kernels are not yet compiled.
Tuner::Trial Tuner::trial(const Product& product, const Cut& cut, uint32_t tokens,
                          kernels::KernelCache& cache) const {
  Trial trial{.cut = cut};
  const auto add = [&](kernels::KernelSource source, kernels::Groups groups,
                       std::vector<std::vector<gpu::Range>> uses) {
    trial.dispatches.push_back(
        {.slot = cache.add(std::move(source)), .groups = groups, .uses = std::move(uses)});
  };
  std::vector<std::vector<gpu::Range>> uses = product.uses;
  if (const auto* matmul = std::get_if<MatmulSpec>(&product.spec)) {
    MatmulSpec spec = *matmul;
    spec.tiling = matmul_tiling(cut);
    spec.dot = matmul_form(cut);
    trial.form = spec.dot;
    if (spec.dot != Dot::kF32) {
      const kernels::QuantizeSpec quantize{.cols = spec.cols, .dot = spec.dot, .light = spec.light};
      const gpu::Range quantized(*product.quantized);
      std::vector<std::vector<gpu::Range>> inputs;
      for (std::vector<gpu::Range>& ranges : uses) {
        inputs.push_back({ranges[2], quantized, ranges.back()});
        ranges[2] = quantized;
      }
      add(quantize_source(quantize), quantize_groups(quantize, tokens), std::move(inputs));
    }
    add(matmul_source(spec), matmul_groups(spec, tokens), std::move(uses));
    return trial;
  }
  MatvecSpec spec = std::get<MatvecSpec>(product.spec);
  spec.tiling = matvec_tiling(cut);
  spec.quantizes = false;  // so that y can be compared
  add(matvec_source(spec, variant_), matvec_groups(spec), std::move(uses));
  return trial;
}

void Tuner::append(gpu::CommandList& list, const Trial& trial, size_t use) {
  for (const Dispatch& d : trial.dispatches)
    list.dispatch(*d.kernel, d.bindings[use], d.groups.x, d.groups.y, d.groups.z);
}

// The first values of y after the product was computed once.
Task<Result<std::vector<float>>> Tuner::output(const Trial& trial, const Product& product) const {
  const bool matmul = std::holds_alternative<MatmulSpec>(product.spec);
  const uint32_t rows = std::visit(
      [](const auto& s) { return kernels::output_rows(s.segments, s.epilogue); }, product.spec);
  std::vector<float> y(matmul ? std::min(kCompared, 4 * rows) : std::min(kCompared, rows));
  gpu::CommandList list;
  list.begin_pass();
  append(list, trial, 0);
  list.end_pass();
  CO_TRY_VOID(co_await gpu::HostCall([&](uint32_t ticket) {
    list.read(product.uses[0][1], static_cast<uint32_t>(y.size() * sizeof(float)), y.data(),
              ticket);
    device_.submit(list);
  }));
  co_return std::move(y);
}

Task<Status> Tuner::time(Trial& trial, size_t turns) {
  gpu::CommandList list;
  list.begin_pass();
  for (size_t i = 0; i < turns; ++i) append(list, trial, i % trial.dispatches[0].bindings.size());
  list.end_pass();
  const double start = gpu::host_now();
  device_.submit(list);
  CO_TRY_VOID(co_await device_.sync());
  trial.ms = std::min(trial.ms, gpu::host_now() - start);
  co_return Status{};
}

// Binds what the kernels read. One that did not compile makes the trial wrong.
Status Tuner::bind(Trial& trial, const kernels::KernelCache& cache, const Status& compiled) const {
  for (Dispatch& dispatch : trial.dispatches) {
    dispatch.kernel = &cache[dispatch.slot];
    if (!dispatch.kernel->handle) {
      trial.wrong = compiled.error().message;
      return {};
    }
    for (const std::vector<gpu::Range>& ranges : dispatch.uses) {
      TRY(gpu::Bindings bindings, device_.create_bindings(*dispatch.kernel, ranges));
      dispatch.bindings.push_back(std::move(bindings));
    }
  }
  return {};
}

// The cut to take, of trials of which the first is the usual one: one must gain to take another's
// place, and a form must do so against the best cut of the forms before it.
Cut Tuner::best(const std::vector<Trial>& trials) {
  const Trial* best = trials.data();
  for (const Dot form : kernels::kDots) {
    const Trial* fastest = best;
    for (const Trial& trial : trials) {
      if (trial.form == form && trial.ms < fastest->ms) fastest = &trial;
    }
    if (fastest->ms < kGain * best->ms) best = fastest;
  }
  return best->cut;
}

Task<Status> Tuner::tune(const Product& product, uint32_t tokens) {
  kernels::KernelCache cache(device_);
  std::vector<Trial> trials;
  for (const Cut& cut : candidates(product.spec))
    trials.push_back(trial(product, cut, tokens, cache));
  const Status compiled = co_await cache.compile();
  std::vector<float> usual;
  for (size_t i = 0; i < trials.size(); ++i) {
    Trial& trial = trials[i];
    CO_TRY_VOID(bind(trial, cache, compiled));
    if (trial.wrong.empty()) {
      CO_TRY(const std::vector<float> y, co_await output(trial, product));
      if (i == 0) usual = y;
      const bool same_form = trial.form == trials[0].form;
      trial.wrong = difference(y, usual, same_form ? kTolerance : tolerance_of(trial.form));
    }
    if (trial.wrong.empty()) continue;
    const std::string message = cat(product.key, ": a cut is not used: ", trial.wrong);
    if (i == 0) co_return fail(ErrorCode::kSelfTest, message);
    gpu::host_log(2, message.data(), static_cast<uint32_t>(message.size()));
  }
  std::erase_if(trials, [](const Trial& trial) { return !trial.wrong.empty(); });
  for (int warm = 0; warm < 2; ++warm) CO_TRY_VOID(co_await time(trials[0], 1));
  const double one = trials[0].ms;
  double each = one;
  if (one <= kSlow) {
    trials[0].ms = 1e30;
    CO_TRY_VOID(co_await time(trials[0], 1 + static_cast<size_t>(kMoreTurns)));
    each = std::clamp((trials[0].ms - one) / kMoreTurns, kTimed / kMaxTurns, one);
  }
  const auto turns = static_cast<size_t>(std::clamp(kTimed / each, 1.0, kMaxTurns));
  // In turns, so that a clock that changes meanwhile is fair to all. A round before them warms up,
  // but where products are long: there one round says enough, and more would take seconds.
  const bool slow = one > kSlow;
  for (int round = slow ? 0 : -1; round < (slow ? 1 : kTimes); ++round) {
    for (Trial& trial : trials) {
      if (round <= 0) trial.ms = 1e30;
      CO_TRY_VOID(co_await time(trial, turns));
    }
  }
  const double wait = std::min(one - each, trials[0].ms / 2);
  for (Trial& trial : trials) trial.ms = std::max(trial.ms - wait, kShortest);
  cuts_[product.key] = best(trials);
  co_return Status{};
}

Task<Status> Tuner::run(double budget_ms, uint32_t tokens) {
  std::ranges::stable_sort(products_, std::ranges::greater{}, &Product::weights);
  const double start = gpu::host_now();
  for (const Product& product : products_) {
    if (gpu::host_now() - start >= budget_ms) break;
    CO_TRY_VOID(co_await tune(product, tokens));
  }
  products_.clear();
  co_return Status{};
}

}  // namespace lapidary::model
