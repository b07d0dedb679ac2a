// The part of the tuner that measures: heats of candidates on the device, as far as the schedule
// lets them go.
#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/step.h"
#include "engine/model/tuner.h"

namespace lapidary::model {
namespace {

using kernels::AttentionSpec;
using kernels::Dot;
using kernels::MatmulSpec;
using kernels::MatvecSpec;
using Step = TuningSchedule::Step;

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
// A candidate that took so many times as long as the usual cut in the round that warms up is not
// timed again; after each round that counts neither is one that took so many times as long as the
// best.
constexpr double kHopeless = 2;
constexpr double kBehind = 1.2;
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

// The step that decode's kernels bind last.
void write_position(const std::vector<gpu::Range>& ranges, uint32_t position) {
  const kernels::Step step{.position = position};
  const gpu::Range& target = ranges.back();
  gpu::host_buffer_write(target.buffer, target.offset, &step, sizeof(step));
}

// Fills the beginning of a cache with numbers of both signs whose exponent is that of `unit`, in
// its type. They do not repeat from split to split: then no mistake about splits would show.
void fill_cache(const gpu::Range& cache, uint64_t bytes, uint32_t unit, uint32_t mantissa) {
  constexpr uint32_t kWords = 16381;  // a prime: rows and splits have none of it
  std::vector<uint32_t> words(kWords);
  for (uint32_t i = 0; i < kWords; ++i) {
    uint32_t mixed = i * 2654435761u;
    mixed = (mixed ^ mixed >> 15) * 2246822519u;
    words[i] = unit | ((mixed ^ mixed >> 13) & mantissa);
  }
  for (uint64_t at = 0; at < bytes; at += 4 * kWords) {
    gpu::host_buffer_write(cache.buffer, static_cast<double>(cache.offset + at), words.data(),
                           static_cast<uint32_t>(std::min<uint64_t>(bytes - at, 4 * kWords)));
  }
}

}  // namespace

// Attention alone reads a cache, and at a position of its own. K is small, so that many keys have a
// weight that counts.
void Tuner::prepare(const Product& product) const {
  const auto* spec = std::get_if<AttentionSpec>(&product.spec);
  if (spec == nullptr) return;
  const std::vector<gpu::Range>& ranges = product.uses[0];
  const uint32_t position = attention_position(*spec);
  write_position(ranges, position);
  const uint64_t bytes =
      (uint64_t{position} + 1) * spec->kv_heads * kv_row_elements(*spec) * (spec->kv_f32 ? 4 : 2);
  // 2^-5 and 2^-1, and the bits that may differ.
  const uint32_t mantissa = spec->kv_f32 ? 0x807fffff : 0x83ff83ff;
  fill_cache(ranges[3], bytes, spec->kv_f32 ? 0x3d000000 : 0x28002800, mantissa);
  fill_cache(ranges[4], bytes, spec->kv_f32 ? 0x3f000000 : 0x38003800, mantissa);
}

void Tuner::append(gpu::CommandList& list, const Heat& heat, const Trial& trial, size_t use) {
  for (const Dispatch& d : trial.dispatches)
    list.dispatch(heat.cache[d.slot], d.bindings[use], d.groups.x, d.groups.y, d.groups.z);
}

// The first values of y after the product was computed once.
Task<Result<std::vector<float>>> Tuner::output(const Heat& heat, const Trial& trial,
                                               const Product& product) const {
  const bool matmul = std::holds_alternative<MatmulSpec>(product.spec);
  const bool attention = std::holds_alternative<AttentionSpec>(product.spec);
  uint32_t rows = 0;
  if (const auto* spec = std::get_if<MatmulSpec>(&product.spec)) {
    rows = output_rows(spec->segments, spec->epilogue);
  } else {
    const MatvecSpec& one = attention ? product.merge : std::get<MatvecSpec>(product.spec);
    rows = output_rows(one.segments, one.epilogue);
  }
  std::vector<float> y(matmul ? std::min(kCompared, 4 * rows) : std::min(kCompared, rows));
  gpu::CommandList list;
  list.begin_pass();
  append(list, heat, trial, 0);
  list.end_pass();
  CO_TRY_VOID(co_await gpu::HostCall([&](uint32_t ticket) {
    list.read(attention ? product.merges[0][1] : product.uses[0][1],
              static_cast<uint32_t>(y.size() * sizeof(float)), y.data(), ticket);
    device_.submit(list);
  }));
  co_return std::move(y);
}

// Milliseconds of a submission of so many turns.
Task<Result<double>> Tuner::time(const Heat& heat, const Trial& trial, size_t turns,
                                 TuningSchedule& schedule) const {
  gpu::CommandList list;
  list.begin_pass();
  for (size_t i = 0; i < turns; ++i)
    append(list, heat, trial, i % trial.dispatches[0].bindings.size());
  list.end_pass();
  schedule.begin();
  const double start = gpu::host_now();
  device_.submit(list);
  CO_TRY_VOID(co_await device_.sync());
  const double ms = gpu::host_now() - start;
  schedule.end(Step::kTime);
  co_return ms;
}

// Binds what the kernels read.
Status Tuner::bind(Trial& trial, const kernels::KernelCache& cache) const {
  for (Dispatch& dispatch : trial.dispatches) {
    for (const std::vector<gpu::Range>& ranges : dispatch.uses) {
      TRY(gpu::Bindings bindings, device_.create_bindings(cache[dispatch.slot], ranges));
      dispatch.bindings.push_back(std::move(bindings));
    }
  }
  return {};
}

// Whether the trial computes what the usual cut does. The first trial is of that one. Nothing may
// be timed before: in turn over the layers, products write what others of them read.
Task<Status> Tuner::check(Heat& heat, Trial& trial, const Product& product) const {
  CO_TRY_VOID(bind(trial, heat.cache));
  CO_TRY(std::vector<float> y, co_await output(heat, trial, product));
  if (heat.trials.empty()) heat.usual = y;
  const bool same_form = heat.trials.empty() || trial.form == heat.trials[0].form;
  trial.wrong = difference(y, heat.usual, same_form ? kTolerance : tolerance_of(trial.form));
  co_return Status{};
}

// Finds out what a turn of the usual cut takes; false where that does not fit.
Task<Result<bool>> Tuner::probe(Heat& heat, TuningSchedule& schedule) const {
  const Trial& usual = heat.trials[0];
  heat.one = kNever;
  for (int warm = 0; warm < 2; ++warm) {
    if (!schedule.fits_timing()) co_return false;
    CO_TRY(const double ms, co_await time(heat, usual, 1, schedule));
    heat.one = std::min(heat.one, ms);
  }
  heat.each = heat.one;
  schedule.set_slow(heat.one > kSlow);
  if (heat.one <= kSlow) {
    if (!schedule.fits_timing()) co_return false;
    CO_TRY(const double ms,
           co_await time(heat, usual, 1 + static_cast<size_t>(kMoreTurns), schedule));
    heat.each = std::clamp((ms - heat.one) / kMoreTurns, kTimed / kMaxTurns, heat.one);
  }
  heat.turns = static_cast<size_t>(std::clamp(kTimed / heat.each, 1.0, kMaxTurns));
  co_return true;
}

// Times what a heat has, in turns, so that a clock that changes meanwhile is fair to all. A round
// before them warms up, but where products are long: there one round says enough, and more would
// take seconds. False where too few rounds fitted.
Task<Result<bool>> Tuner::time_all(Heat& heat, TuningSchedule& schedule) const {
  std::vector<double> times;
  const auto one_round = [&]() -> Task<Result<bool>> {
    times.clear();
    for (const Trial& trial : heat.trials) {
      if (!schedule.fits_timing()) co_return false;
      CO_TRY(const double ms, co_await time(heat, trial, heat.turns, schedule));
      times.push_back(ms);
    }
    co_return true;
  };
  if (schedule.warms_up()) {
    CO_TRY(const bool whole, co_await one_round());
    if (!whole) co_return false;
    size_t at = 0;
    std::erase_if(heat.trials, [&](const Trial&) { return times[at++] > kHopeless * times[0]; });
  }
  uint32_t rounds = 0;
  for (; rounds < schedule.rounds(); ++rounds) {
    CO_TRY(const bool whole, co_await one_round());
    if (!whole) break;
    for (size_t i = 0; i < times.size(); ++i)
      heat.trials[i].ms = std::min(heat.trials[i].ms, times[i]);
    const double best = std::ranges::min_element(heat.trials, {}, &Trial::ms)->ms;
    const auto behind = [&](const Trial& trial) { return trial.ms > kBehind * best; };
    heat.trials.erase(std::remove_if(heat.trials.begin() + 1, heat.trials.end(), behind),
                      heat.trials.end());
  }
  if (rounds < std::min(TuningSchedule::kEnoughRounds, schedule.rounds())) co_return false;
  const double wait = std::min(heat.one - heat.each, heat.trials[0].ms / 2);
  for (Trial& trial : heat.trials) trial.ms = std::max(trial.ms - wait, kShortest);
  co_return true;
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

// One heat: the usual cut, the best so far, and as many of those not yet tried as fit.
Task<Status> Tuner::tune(const Product& product, uint32_t tokens, TuningSchedule& schedule) {
  const std::vector<Cut> all = candidates(product.spec);
  const size_t tried = std::clamp<size_t>(product.known.tried, 1, all.size());
  const Cut so_far = product.known.is_open() ? Cut{product.known.numbers} : all[0];
  std::vector<Cut> cuts{all[0]};
  if (so_far != all[0]) cuts.push_back(so_far);
  const size_t old = cuts.size();
  const auto needed = static_cast<uint32_t>(old + 1);
  cuts.insert(cuts.end(), all.begin() + static_cast<ptrdiff_t>(tried), all.end());
  const auto keep = [&](Cut cut, size_t compared) {
    cut.tried = compared < all.size() ? static_cast<uint32_t>(compared) : 0;
    cuts_[product.key] = cut;
  };
  if (cuts.size() == old) {
    keep(so_far, all.size());
    co_return Status{};
  }
  schedule.begin_product();
  if (schedule.batch(0, needed, static_cast<uint32_t>(cuts.size())) == 0) co_return Status{};
  prepare(product);
  Heat heat(device_);
  const auto ready = [&] { return static_cast<uint32_t>(heat.trials.size()); };
  size_t next = 0;   // the first cut that is not yet ready, or found wrong
  size_t alone = 0;  // cuts before this one are compiled one at a time
  bool fits = true;
  while (fits && next < cuts.size()) {
    auto count = schedule.batch(ready(), needed, static_cast<uint32_t>(cuts.size() - next));
    if (count == 0) break;
    if (next < alone) count = 1;
    std::vector<Trial> trials;
    for (size_t place = next; place < next + count; ++place) {
      trials.push_back(trial(product, cuts[place], tokens, heat.cache));
      trials.back().place = place;
    }
    schedule.begin();
    const Status compiled = co_await heat.cache.compile();
    schedule.end(Step::kCompile, count);
    if (!compiled) {
      heat.cache.forget_added();
      alone = std::max(alone, next + count);
      if (count > 1) continue;  // Which of them failed shows one at a time.
      trials[0].wrong = compiled.error().message;
    }
    for (Trial& trial : trials) {
      if (trial.wrong.empty()) {
        fits = schedule.fits_check(
            ready(), needed,
            static_cast<uint32_t>(trials.size() - (trial.place - trials[0].place)));
        if (!fits) break;
        schedule.begin();
        const double start = gpu::host_now();
        CO_TRY_VOID(co_await check(heat, trial, product));
        schedule.end(Step::kCheck);
        if (trial.place == 0) schedule.set_slow(gpu::host_now() - start > kSlow);
      }
      ++next;
      if (trial.wrong.empty()) {
        heat.trials.push_back(std::move(trial));
        continue;
      }
      const std::string message = cat(product.key, ": a cut is not used: ", trial.wrong);
      if (heat.trials.empty()) co_return fail(ErrorCode::kSelfTest, message);
      gpu::host_log(2, message.data(), static_cast<uint32_t>(message.size()));
    }
  }
  bool decided = next > old;
  if (decided && heat.trials.size() > 1) {
    CO_TRY(decided, co_await probe(heat, schedule));
    for (; heat.trials.size() > needed && !schedule.fits_rounds(ready()); heat.trials.pop_back())
      next = heat.trials.back().place;
    if (decided) {
      CO_TRY(decided, co_await time_all(heat, schedule));
    }
  }
  if (decided) {
    keep(best(heat.trials), tried + next - old);
  } else if (const double ms = schedule.heat_ms(needed); !schedule.within_budget(ms)) {
    // Otherwise every load would spend its budget on what does not fit.
    keep(so_far, tried);
    cuts_[product.key].needed_ms = static_cast<uint32_t>(std::min(std::ceil(ms), 1e9));
  }
  co_return Status{};
}

bool Tuner::has_work(double budget_ms) const {
  return std::ranges::any_of(
      products_, [&](const Product& product) { return product.known.needed_ms <= budget_ms; });
}

Task<Status> Tuner::run(double budget_ms, uint32_t tokens) {
  std::ranges::stable_sort(products_, std::ranges::greater{}, &Product::weights);
  TuningSchedule schedule(budget_ms, gpu::host_now);
  for (const Product& product : products_) {
    if (product.known.needed_ms > budget_ms) continue;
    CO_TRY_VOID(co_await tune(product, tokens, schedule));
    if (std::holds_alternative<AttentionSpec>(product.spec)) write_position(product.uses[0], 0);
  }
  products_.clear();
  co_return Status{};
}

}  // namespace lapidary::model
