#include "engine/model/tuner.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"

namespace lapidary::model {
namespace {

using kernels::MatmulSpec;
using kernels::MatmulTiling;
using kernels::MatvecSpec;
using kernels::MatvecTiling;

// Layers whose matrices a trial reads in turn, so that they do not all lie in the GPU's cache.
constexpr size_t kMaxUses = 40;
// A timed submission takes about so long, in milliseconds, unless one dispatch takes longer; and
// has no more dispatches than this.
constexpr double kTimed = 4;
constexpr double kMaxDispatches = 96;
// A dispatch of so many milliseconds is long enough to be timed once.
constexpr double kSlow = 20;
constexpr int kTimes = 4;
// A cut must take less than this share of the usual one's time to take its place: less is noise,
// and alone a product meets other caches than between its neighbours.
constexpr double kGain = 0.93;
// Values of y that are compared, and how far sums in another order may differ.
constexpr uint32_t kCompared = 4096;
constexpr float kTolerance = 1e-3f;

MatvecTiling matvec_tiling(const Cut& cut) {
  return {.threads = cut[0], .lanes = cut[1], .rows = cut[2]};
}
Cut cut_of(const MatvecTiling& t) { return {t.threads, t.lanes, t.rows}; }
MatmulTiling matmul_tiling(const Cut& cut) { return {.threads = cut[0], .rows = cut[1]}; }
Cut cut_of(const MatmulTiling& t) { return {t.threads, t.rows, 0}; }

// What is wrong with y, where it should be `usual`; empty when nothing is.
std::string difference(const std::vector<float>& y, const std::vector<float>& usual) {
  float most = 0;
  float off = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    most = std::max(most, std::fabs(usual[i]));
    off = std::max(off, std::isnan(y[i]) ? INFINITY : std::fabs(y[i] - usual[i]));
  }
  return off <= kTolerance * most ? "" : cat("its sums are off by ", off, " of ", most);
}

}  // namespace

void Tuner::use(MatvecSpec& spec, const std::vector<gpu::Range>& ranges) {
  std::string key = tuning_key(spec, variant_);
  if (const Cut* known = find(key); known && fits(spec, matvec_tiling(*known), variant_)) {
    spec.tiling = matvec_tiling(*known);
  } else {
    note(std::move(key), spec, ranges);
  }
}

void Tuner::use(MatmulSpec& spec, const std::vector<gpu::Range>& ranges) {
  std::string key = tuning_key(spec);
  const uint32_t storage = device_.info().max_workgroup_storage;
  if (const Cut* known = find(key); known && fits(matmul_tiling(*known), storage)) {
    spec.tiling = matmul_tiling(*known);
  } else {
    note(std::move(key), spec, ranges);
  }
}

const Cut* Tuner::find(std::string_view key) const {
  const auto known = cuts_.find(key);
  return known == cuts_.end() ? nullptr : &known->second;
}

void Tuner::note(std::string key, Spec spec, const std::vector<gpu::Range>& ranges) {
  auto product = std::ranges::find(products_, key, &Product::key);
  if (product == products_.end()) {
    products_.push_back({.key = std::move(key), .spec = std::move(spec)});
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
    add(cut_of(matmul->tiling));
    for (const MatmulTiling& tiling : kernels::kMatmulTilings) {
      if (fits(tiling, device_.info().max_workgroup_storage)) add(cut_of(tiling));
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

// The kernel of a cut, not yet compiled, and its workgroups.
kernels::KernelSource Tuner::source(const Product& product, const Cut& cut, uint32_t tokens,
                                    kernels::Groups& groups) const {
  if (const auto* matmul = std::get_if<MatmulSpec>(&product.spec)) {
    MatmulSpec spec = *matmul;
    spec.tiling = matmul_tiling(cut);
    groups = matmul_groups(spec, tokens);
    return matmul_source(spec);
  }
  MatvecSpec spec = std::get<MatvecSpec>(product.spec);
  spec.tiling = matvec_tiling(cut);
  groups = matvec_groups(spec);
  return matvec_source(spec, variant_);
}

// The first values of y after one dispatch.
Task<Result<std::vector<float>>> Tuner::output(const Trial& trial, const Product& product) const {
  const bool matmul = std::holds_alternative<MatmulSpec>(product.spec);
  const uint32_t rows = std::visit(
      [](const auto& s) { return kernels::output_rows(s.segments, s.epilogue); }, product.spec);
  std::vector<float> y(matmul ? std::min(kCompared, 4 * rows) : std::min(kCompared, rows));
  gpu::CommandList list;
  list.begin_pass();
  list.dispatch(*trial.kernel, trial.bindings[0], trial.groups.x, trial.groups.y, trial.groups.z);
  list.end_pass();
  CO_TRY_VOID(co_await gpu::HostCall([&](uint32_t ticket) {
    list.read(product.uses[0][1], static_cast<uint32_t>(y.size() * sizeof(float)), y.data(),
              ticket);
    device_.submit(list);
  }));
  co_return std::move(y);
}

Task<Status> Tuner::time(Trial& trial, size_t dispatches) {
  gpu::CommandList list;
  list.begin_pass();
  for (size_t i = 0; i < dispatches; ++i) {
    list.dispatch(*trial.kernel, trial.bindings[i % trial.bindings.size()], trial.groups.x,
                  trial.groups.y, trial.groups.z);
  }
  list.end_pass();
  const double start = gpu::host_now();
  device_.submit(list);
  CO_TRY_VOID(co_await device_.sync());
  trial.ms = std::min(trial.ms, gpu::host_now() - start);
  co_return Status{};
}

Task<Status> Tuner::tune(const Product& product, uint32_t tokens) {
  kernels::KernelCache cache(device_);
  std::vector<Trial> trials;
  std::vector<uint32_t> slots;
  for (const Cut& cut : candidates(product.spec)) {
    Trial& trial = trials.emplace_back(Trial{.cut = cut});
    slots.push_back(cache.add(source(product, cut, tokens, trial.groups)));
  }
  const Status compiled = co_await cache.compile();
  std::vector<float> usual;
  for (size_t i = 0; i < trials.size(); ++i) {
    Trial& trial = trials[i];
    trial.kernel = &cache[slots[i]];
    trial.wrong = trial.kernel->handle ? "" : compiled.error().message;
    if (trial.wrong.empty()) {
      for (const std::vector<gpu::Range>& ranges : product.uses) {
        CO_TRY(gpu::Bindings bindings, device_.create_bindings(*trial.kernel, ranges));
        trial.bindings.push_back(std::move(bindings));
      }
      CO_TRY(const std::vector<float> y, co_await output(trial, product));
      if (i == 0) usual = y;
      trial.wrong = difference(y, usual);
    }
    if (trial.wrong.empty()) continue;
    const std::string message = cat(product.key, ": a cut is not used: ", trial.wrong);
    if (i == 0) co_return fail(ErrorCode::kSelfTest, message);
    gpu::host_log(2, message.data(), static_cast<uint32_t>(message.size()));
  }
  std::erase_if(trials, [](const Trial& trial) { return !trial.wrong.empty(); });
  CO_TRY_VOID(co_await time(trials[0], 1));
  const double one = trials[0].ms;
  const auto dispatches = static_cast<size_t>(std::clamp(kTimed / one, 1.0, kMaxDispatches));
  // In turns, so that a clock that changes meanwhile is fair to all. A round before them warms up,
  // but where dispatches are long: there one round says enough, and more would take seconds.
  const bool slow = one > kSlow;
  for (int round = slow ? 0 : -1; round < (slow ? 1 : kTimes); ++round) {
    for (Trial& trial : trials) {
      if (round <= 0) trial.ms = 1e30;
      CO_TRY_VOID(co_await time(trial, dispatches));
    }
  }
  const auto best = std::ranges::min_element(trials, {}, &Trial::ms);
  cuts_[product.key] = best->ms < kGain * trials[0].ms ? best->cut : trials[0].cut;
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
