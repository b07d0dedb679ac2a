#include "engine/model/tuner.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/kernels/quantize.h"

namespace lapidary::model {
namespace {

using kernels::AttentionSpec;
using kernels::AttentionTiling;
using kernels::Dot;
using kernels::MatmulSpec;
using kernels::MatmulTiling;
using kernels::MatvecSpec;
using kernels::MatvecTiling;

// Layers whose matrices a trial reads in turn, so that they do not all lie in the GPU's cache.
constexpr size_t kMaxUses = 40;
// Positions in the cache while attention is timed, or as many as there is room for.
constexpr uint32_t kContext = 2048;

MatvecTiling matvec_tiling(const Cut& cut) {
  return {.threads = cut.numbers[0], .lanes = cut.numbers[1], .rows = cut.numbers[2]};
}
Cut cut_of(const MatvecTiling& t) { return {.numbers = {t.threads, t.lanes, t.rows}}; }
MatmulTiling matmul_tiling(const Cut& cut) {
  return {.threads = cut.numbers[0], .rows = cut.numbers[1]};
}
Dot matmul_form(const Cut& cut) { return static_cast<Dot>(cut.numbers[2]); }
Cut cut_of(const MatmulTiling& t, Dot form) {
  return {.numbers = {t.threads, t.rows, static_cast<uint32_t>(form)}};
}

AttentionTiling attention_tiling(const Cut& cut) {
  return {.threads = cut.numbers[0], .keys = cut.numbers[1], .splits = cut.numbers[2]};
}
Cut cut_of(const AttentionTiling& t) { return {.numbers = {t.threads, t.keys, t.splits}}; }

uint64_t elements(const auto& spec) {
  return uint64_t{kernels::total_rows(spec.segments)} * spec.cols;
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

}  // namespace

uint32_t Tuner::attention_position(const AttentionSpec& spec) {
  return std::min(spec.slots, kContext) - 1;
}

const Cut* Tuner::find_fitting(const MatvecSpec& spec, std::string_view key) const {
  const Cut* known = find(key);
  return known && fits(spec, matvec_tiling(*known), variant_) ? known : nullptr;
}

const Cut* Tuner::find_fitting(const AttentionSpec& spec, std::string_view key) const {
  const Cut* known = find(key);
  return known && fits(spec, attention_tiling(*known)) ? known : nullptr;
}

void Tuner::apply(MatvecSpec& spec) const {
  if (const Cut* known = find_fitting(spec, tuning_key(spec, variant_)))
    spec.tiling = matvec_tiling(*known);
}

void Tuner::apply(AttentionSpec& spec) const {
  if (const Cut* known = find_fitting(spec, attention_key(spec)))
    spec.tiling = attention_tiling(*known);
}

void Tuner::use(MatvecSpec& spec, const std::vector<gpu::Range>& ranges) {
  std::string key = tuning_key(spec, variant_);
  const Cut* known = find_fitting(spec, key);
  if (!known || known->is_open())
    note({.key = std::move(key), .spec = spec}, known, ranges, elements(spec));
  if (known) spec.tiling = matvec_tiling(*known);
}

void Tuner::use(MatmulSpec& spec, const std::vector<gpu::Range>& ranges,
                const gpu::Buffer& quantized) {
  const std::vector<Dot> forms = matmul_forms(spec.segments, variant_);
  spec.dot = forms[0];
  spec.light = variant_.light;
  std::string key = tuning_key(spec, variant_);
  const MatmulSpec usual = spec;
  const Cut* known = find(key);
  if (known && !set_cut(spec, *known, forms, device_.info().max_workgroup_storage)) known = nullptr;
  if (!known || known->is_open())
    note({.key = std::move(key), .spec = usual, .quantized = &quantized}, known, ranges,
         elements(usual));
}

void Tuner::use(AttentionSpec& spec, const std::vector<gpu::Range>& ranges, const MatvecSpec& merge,
                const std::vector<gpu::Range>& merged) {
  const uint32_t keys = timed_keys(spec);
  std::string key = attention_key(spec);
  const Cut* known = find_fitting(spec, key);
  if (!known || known->is_open()) {
    // What a token reads of the cache, as if it were weights. It waits more than it reads: by an
    // H100's profile an element takes as long as a hundred of a product's.
    const uint64_t weights = uint64_t{100} * 2 * keys * spec.kv_heads * spec.head_dim;
    Product& product =
        note({.key = std::move(key), .spec = spec, .merge = merge}, known, ranges, weights);
    if (product.merges.size() < product.uses.size()) product.merges.push_back(merged);
  }
  if (known) spec.tiling = attention_tiling(*known);
}

std::string Tuner::attention_key(const AttentionSpec& spec) const {
  return cat(tuning_key(spec, variant_), " over ", timed_keys(spec));
}

// Keys that attention sees while it is timed.
uint32_t Tuner::timed_keys(const AttentionSpec& spec) {
  const uint32_t context = attention_position(spec) + 1;
  return spec.window > 0 ? std::min(context, spec.window) : context;
}

void Tuner::forget_plain() {
  std::erase_if(products_, [](const Product& product) {
    const auto* matvec = std::get_if<MatvecSpec>(&product.spec);
    return matvec == nullptr || !matvec->fused.any();
  });
}

const Cut* Tuner::find(std::string_view key) const {
  const auto known = cuts_.find(key);
  return known == cuts_.end() ? nullptr : &known->second;
}

Tuner::Product& Tuner::note(Product noted, const Cut* known, const std::vector<gpu::Range>& ranges,
                            uint64_t weights) {
  if (known) noted.known = *known;
  auto product = std::ranges::find(products_, noted.key, &Product::key);
  if (product == products_.end()) {
    products_.push_back(std::move(noted));
    product = products_.end() - 1;
  }
  product->weights += weights;
  if (product->uses.size() < kMaxUses) product->uses.push_back(ranges);
  return *product;
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
  if (const auto* attention = std::get_if<AttentionSpec>(&spec)) {
    for (const AttentionTiling& tiling : near_tilings(*attention, attention_position(*attention)))
      add(cut_of(tiling));
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
  if (const auto* attention = std::get_if<AttentionSpec>(&product.spec)) {
    AttentionSpec spec = *attention;
    spec.tiling = attention_tiling(cut);
    MatvecSpec merge = product.merge;
    merge.attention = spec.tiling;
    if (variant_.light) merge.tiling = light_tiling(merge);
    add(attention_decode_source(spec, variant_),
        attention_decode_groups(spec, attention_position(spec)), std::move(uses));
    add(matvec_source(merge, variant_), matvec_groups(merge), product.merges);
    return trial;
  }
  MatvecSpec spec = std::get<MatvecSpec>(product.spec);
  spec.tiling = matvec_tiling(cut);
  spec.quantizes = false;  // so that y can be compared
  add(matvec_source(spec, variant_), matvec_groups(spec), std::move(uses));
  return trial;
}

}  // namespace lapidary::model
