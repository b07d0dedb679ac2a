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
// So many kernels are compiled at once at most, and no more than half of the processors: an H100's
// driver takes longer for sixteen on sixteen processors than a load has.
constexpr uint32_t kSideBySide = 6;
// A product that a load found too long for its budget has another chance in loads with a budget of
// that divided by so much.
constexpr double kChance = 2;
// A cut must take less than this share of the usual one's time to take its place: less is noise,
// and alone a product meets other caches than between its neighbours.
constexpr double kGain = 0.93;
// So much less of attention, which is timed in two submissions and with all of the cache in reach:
// for less a cut took its place that lost a fifth among the layers.
constexpr double kAttentionGain = 0.85;
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

// By how much a cut of the product must be faster.
double gain_of(const auto& spec) {
  return std::holds_alternative<AttentionSpec>(spec) ? kAttentionGain : kGain;
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

// Where a token stands in the shorter of the two contexts in which attention is timed.
constexpr uint32_t kShortContext = 127;

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
  const uint64_t bytes = (uint64_t{position} + 1) * spec->kv_heads * kv_row_bytes(*spec);
  // 2^-5 and 2^-1, and the bits that may differ. Of 8-bit elements these are the scales; read as
  // four integers they are as good as others.
  const bool f32 = spec->kv_type == kernels::KvType::kF32;
  const uint32_t mantissa = f32 ? 0x807fffff : 0x83ff83ff;
  fill_cache(ranges[3], bytes, f32 ? 0x3d000000 : 0x28002800, mantissa);
  fill_cache(ranges[4], bytes, f32 ? 0x3f000000 : 0x38003800, mantissa);
}

void Tuner::append(gpu::CommandList& list, const Heat& heat, const Trial& trial, size_t use) {
  for (const Dispatch& d : trial.dispatches)
    list.dispatch((*heat.cache)[d.slot], d.bindings[use], d.groups.x, d.groups.y, d.groups.z);
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

// Milliseconds of a submission of so many turns; of attention of two, with few positions in the
// cache and with many.
Task<Result<double>> Tuner::time(const Heat& heat, const Trial& trial, size_t turns,
                                 TuningSchedule& schedule) const {
  gpu::CommandList list;
  list.begin_pass();
  for (size_t i = 0; i < turns; ++i)
    append(list, heat, trial, i % trial.dispatches[0].bindings.size());
  list.end_pass();
  schedule.begin();
  const double start = gpu::host_now();
  if (const auto* spec = std::get_if<AttentionSpec>(&heat.product->spec)) {
    // A cut for many positions may be a poor one for few.
    for (const uint32_t position :
         {std::min(kShortContext, attention_position(*spec)), attention_position(*spec)}) {
      write_position(heat.product->uses[0], position);
      device_.submit(list);
    }
  } else {
    device_.submit(list);
  }
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
  CO_TRY_VOID(bind(trial, *heat.cache));
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
Cut Tuner::best(const std::vector<Trial>& trials, double gain) {
  const Trial* best = trials.data();
  for (const Dot form : kernels::kDots) {
    const Trial* fastest = best;
    for (const Trial& trial : trials) {
      if (trial.form == form && trial.ms < fastest->ms) fastest = &trial;
    }
    if (fastest->ms < gain * best->ms) best = fastest;
  }
  return best->cut;
}

// The cuts that a heat of the product compares: the usual one, the best so far, and those not yet
// tried.
Tuner::Heat Tuner::heat(const Product& product) const {
  Heat heat{.product = &product, .all = candidates(product.spec)};
  heat.tried = std::clamp<size_t>(product.known.tried, 1, heat.all.size());
  heat.so_far = product.known.is_open() ? Cut{product.known.numbers} : heat.all[0];
  heat.cuts = {heat.all[0]};
  if (heat.so_far != heat.all[0]) heat.cuts.push_back(heat.so_far);
  heat.old = heat.cuts.size();
  heat.cuts.insert(heat.cuts.end(), heat.all.begin() + static_cast<ptrdiff_t>(heat.tried),
                   heat.all.end());
  return heat;
}

void Tuner::keep(const Heat& heat, Cut cut, size_t compared, uint32_t needed_ms) {
  cut.tried = compared < heat.all.size() ? static_cast<uint32_t>(compared) : 0;
  cut.needed_ms = cut.tried > 0 ? needed_ms : 0;
  cuts_[heat.product->key] = cut;
}

// The next products whose candidates are compiled together, from `next` on: as many as compile side
// by side, and at least what the first needs.
std::vector<Tuner::Heat> Tuner::choose(size_t& next, const TuningSchedule& schedule) {
  std::vector<Heat> heats;
  uint32_t chosen = 0;
  for (; next < products_.size(); ++next) {
    Heat heat = this->heat(products_[next]);
    const uint32_t needed = heat.needed();
    if (heat.cuts.size() < needed) {
      keep(heat, heat.so_far, heat.all.size(), 0);
      continue;
    }
    if (heats.empty() ? !schedule.fits_heat(needed) : schedule.beside(chosen) < needed) break;
    // Of a product that did not fit before, as few as possible.
    const bool hard = products_[next].known.needed_ms > 0;
    const size_t most = hard ? needed : std::max(schedule.beside(chosen), needed);
    if (heat.cuts.size() > most) heat.cuts.resize(most);
    chosen += static_cast<uint32_t>(heat.cuts.size());
    heats.push_back(std::move(heat));
  }
  return heats;
}

// Makes the trials of all heats, side by side; where that fails, one after another: then those at
// fault show, and do not count.
Task<Status> Tuner::compile(std::vector<Heat>& heats, uint32_t tokens, kernels::KernelCache& cache,
                            TuningSchedule& schedule) const {
  uint32_t count = 0;
  for (Heat& heat : heats) {
    heat.cache = &cache;
    for (const Cut& cut : heat.cuts) heat.made.push_back(trial(*heat.product, cut, tokens, cache));
    count += static_cast<uint32_t>(heat.cuts.size());
  }
  schedule.begin();
  const Status together = co_await cache.compile();
  schedule.end(Step::kCompile, count);
  if (together) co_return Status{};
  cache.forget_added();
  for (Heat& heat : heats) {
    heat.made.clear();
    for (const Cut& cut : heat.cuts) {
      if (!schedule.fits_heat(heat.needed())) co_return Status{};
      heat.made.push_back(trial(*heat.product, cut, tokens, cache));
      schedule.begin();
      const Status alone = co_await cache.compile();
      schedule.end(Step::kCompile);
      if (alone) continue;
      cache.forget_added();
      heat.made.back().wrong = alone.error().message;
    }
  }
  co_return Status{};
}

// Checks as many of the candidates made as there is time to compare; `next` becomes the first that
// was not.
Task<Status> Tuner::check_all(Heat& heat, TuningSchedule& schedule, size_t& next) const {
  const size_t count = schedule.heat_size(static_cast<uint32_t>(heat.made.size()), heat.needed());
  for (next = 0; next < count; ++next) {
    Trial& trial = heat.made[next];
    trial.place = next;
    if (trial.wrong.empty()) {
      schedule.begin();
      const double start = gpu::host_now();
      CO_TRY_VOID(co_await check(heat, trial, *heat.product));
      schedule.end(Step::kCheck);
      if (next == 0) schedule.set_slow(gpu::host_now() - start > kSlow);
    }
    if (trial.wrong.empty()) {
      heat.trials.push_back(std::move(trial));
      continue;
    }
    const std::string message = cat(heat.product->key, ": a cut is not used: ", trial.wrong);
    if (next == 0) co_return fail(ErrorCode::kSelfTest, message);
    gpu::host_log(2, message.data(), static_cast<uint32_t>(message.size()));
  }
  co_return Status{};
}

// first: nothing was tuned before, so that what does not fit now will not in another load.
Task<Status> Tuner::tune(Heat& heat, bool first, TuningSchedule& schedule) {
  const uint32_t needed = heat.needed();
  schedule.begin_product();
  prepare(*heat.product);
  size_t next = 0;
  CO_TRY_VOID(co_await check_all(heat, schedule, next));
  bool decided = next >= needed;
  if (decided && heat.trials.size() > 1) {
    CO_TRY(decided, co_await probe(heat, schedule));
    while (heat.trials.size() > needed &&
           !schedule.fits_rounds(static_cast<uint32_t>(heat.trials.size()))) {
      next = heat.trials.back().place;
      heat.trials.pop_back();
    }
    if (decided) {
      CO_TRY(decided, co_await time_all(heat, schedule));
    }
  }
  if (decided) {
    keep(heat, best(heat.trials, gain_of(heat.product->spec)), heat.tried + next - heat.old,
         heat.product->known.needed_ms);
  } else if (const double ms = schedule.heat_ms(needed); first && !schedule.within_budget(ms)) {
    // Otherwise every load would spend its budget on what does not fit. One that failed may have
    // been held up by something else; after two there is no third.
    const double least = heat.product->known.needed_ms > 0 ? kChance * schedule.budget() + 1 : 0;
    keep(heat, heat.so_far, heat.tried,
         static_cast<uint32_t>(std::min(std::ceil(std::max(ms, least)), 1e9)));
  }
  if (std::holds_alternative<AttentionSpec>(heat.product->spec))
    write_position(heat.product->uses[0], 0);
  co_return Status{};
}

bool Tuner::has_work(double budget_ms) const {
  return std::ranges::any_of(products_, [&](const Product& product) {
    return product.known.needed_ms <= kChance * budget_ms;
  });
}

Task<Status> Tuner::run(double budget_ms, uint32_t processors, uint32_t tokens) {
  std::erase_if(products_, [&](const Product& product) {
    return product.known.needed_ms > kChance * budget_ms;
  });
  // Those that did not fit before come last.
  std::ranges::stable_sort(products_, [](const Product& a, const Product& b) {
    const bool hard = a.known.needed_ms > 0;
    return hard == (b.known.needed_ms > 0) ? a.weights > b.weights : !hard;
  });
  TuningSchedule schedule(budget_ms, std::min(processors / 2, kSideBySide), gpu::host_now);
  size_t next = 0;
  bool first = true;
  for (;;) {
    std::vector<Heat> heats = choose(next, schedule);
    if (heats.empty()) break;
    kernels::KernelCache cache(device_);
    CO_TRY_VOID(co_await compile(heats, tokens, cache, schedule));
    for (Heat& heat : heats) {
      CO_TRY_VOID(co_await tune(heat, first, schedule));
      first = false;
    }
  }
  products_.clear();
  co_return Status{};
}

}  // namespace lapidary::model
