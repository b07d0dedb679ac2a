#include "engine/model/adapter_fusion.h"

#include <algorithm>
#include <cstring>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/arrange.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/matmul_back.h"
#include "engine/kernels/step.h"
#include "engine/model/program.h"

namespace lapidary::model {
namespace {

using Change = AdapterStack::Change;
using Fused = AdapterFusion::Fused;
using kernels::ArrangeSpec;
using kernels::FusedChange;

constexpr uint32_t kSlot = 256;  // bytes between parameters: where a uniform binding may start
constexpr Product kFused[] = {Product::kQkv, Product::kOutput, Product::kGateUp, Product::kDown,
                              Product::kPleProj};

uint32_t padded(uint32_t rank) { return static_cast<uint32_t>(round_up(rank, 8)); }

uint32_t padded_rank(const Change* change) {
  uint32_t sum = 0;
  if (change != nullptr) {
    for (const auto& part : change->shape.parts) sum += padded(part.rank);
  }
  return sum;
}

bool can_fuse(const Config& config, const Weights& weights, const AdapterStack& stack) {
  if (stack.changes(Product::kPleGate) || stack.changes(Product::kPleProj)) return false;
  // What follows the feed-forward network there is not what its down projection gave.
  if (config.experts.count > 0) return false;
  // Its kernels take a product whole.
  if (weights.splits_groups()) return false;
  if (config.hidden % 32 != 0) return false;
  bool any = false;
  for (size_t l = 0; l < weights.layers.size(); ++l) {
    const LayerWeights& w = weights.layers[l];
    if (config.layers[l].head_dim % 4 != 0) return false;
    for (const MatrixGroup* group : {&w.output, &w.down, &w.ple_proj}) {
      if (group->cols % 32 != 0) return false;
    }
    for (const Product product : kFused) {
      const uint32_t rank = padded_rank(stack.find(l, product));
      if (rank > kernels::kMaxFusedRank) return false;
      any = any || rank > 0;
    }
  }
  return any;
}

}  // namespace

// Collects the dispatches that fill the buffers, and runs them.
class FusionBuilder {
 public:
  FusionBuilder(gpu::Device& device, const Config& config, const Weights& weights,
                const kernels::Variant& variant)
      : device_(device), config_(config), weights_(weights), variant_(variant), cache_(device) {}

  // bf16: as the changes lie.
  Status prepare(bool bf16) {
    bf16_ = bf16;
    // A layer takes fewer than 40 dispatches.
    TRY(params_, device_.create_buffer(uint64_t{kSlot} * 40 * (weights_.layers.size() + 1),
                                       gpu::kParamsUsage, "parameters of adapters"));
    uint32_t cols = config_.hidden;
    for (const LayerWeights& w : weights_.layers)
      cols = std::max({cols, w.output.cols, w.down.cols, w.ple_proj.cols});
    const uint64_t row = uint64_t{kernels::kMaxFusedRank} * sizeof(float);
    TRY(a_, device_.create_buffer(row * config_.hidden, gpu::kStorageUsage, "A of adapters"));
    TRY(v_, device_.create_buffer(row * cols, gpu::kStorageUsage, "V of adapters"));
    TRY(mixed_, device_.create_buffer(row * kernels::kMaxFusedRank, gpu::kStorageUsage,
                                      "products of adapters"));
    return {};
  }

  // `next`, with its norm site; `handed`: of the product that takes the output. For absent ones
  // nullptr.
  Result<std::unique_ptr<Fused>> make(const Change* own, const MatrixGroup& group,
                                      const Change* next, const Site* site, const Change* handed);
  Status make_entry(AdapterFusion& fusion, const Change& change, const Site& site);
  // What follows is of the next layer.
  void end_layer() { ends_.push_back(program_.size()); }
  Task<Status> run();

 private:
  template <typename T>
  gpu::Range param(const T& value) {
    const size_t at = values_.size();
    values_.resize(at + kSlot);
    std::memcpy(values_.data() + at, &value, sizeof(T));
    return {params_, at, sizeof(T)};
  }
  void arrange(const gpu::Buffer& from, const gpu::Buffer& to, const ArrangeSpec& spec,
               gpu::Range weights, bool bf16);
  // Into the buffer of a change.
  void arrange(const gpu::Buffer& from, const Fused& to, const ArrangeSpec& spec) {
    arrange(from, to.buffer, spec, from, bf16_);
  }
  // The rows of A of `change`, padded, times the site's pre weights, and post weights too.
  void scale_rows(const Change& change, const Site& site, bool post, const gpu::Buffer& to,
                  uint64_t offset, bool bf16);
  void copy_own(const Change& own, const Fused& fused);
  void make_next(const Change* own, const MatrixGroup& group, const Change& next, const Site& site,
                 const Fused& fused);

  gpu::Device& device_;
  const Config& config_;
  const Weights& weights_;
  const kernels::Variant& variant_;
  kernels::KernelCache cache_;
  Program program_;
  std::vector<size_t> ends_;  // of each layer in it
  gpu::Buffer params_;
  gpu::Buffer a_, v_, mixed_;  // of one change at a time, in f32
  bool bf16_ = false;
  std::vector<std::byte> values_;
};

void FusionBuilder::arrange(const gpu::Buffer& from, const gpu::Buffer& to, const ArrangeSpec& spec,
                            gpu::Range weights, bool bf16) {
  program_.add(cache_, kernels::arrange_source(bf16),
               std::vector<gpu::Range>{from, to, weights, param(spec)},
               [groups = kernels::arrange_groups(spec, bf16)](uint32_t) { return groups; });
}

void FusionBuilder::scale_rows(const Change& change, const Site& site, bool post,
                               const gpu::Buffer& to, uint64_t offset, bool bf16) {
  uint64_t out = offset;
  for (size_t i = 0; i < change.shape.parts.size(); ++i) {
    const uint32_t rank = change.shape.parts[i].rank;
    if (rank == 0) continue;
    arrange(change.buffer, to,
            {.rows = rank,
             .cols = config_.hidden,
             .in_offset = static_cast<uint32_t>(change.shape.a_offset(i) / sizeof(float)),
             .in_row = static_cast<uint32_t>(change.shape.row_bytes() / sizeof(float)),
             .out_offset = static_cast<uint32_t>(out),
             .out_row = config_.hidden,
             .first = post && site.has_post ? 0 : ArrangeSpec::kNone,
             .second = site.has_pre ? config_.hidden : ArrangeSpec::kNone},
            {weights_.vectors, site.offset, site.bytes}, bf16);
    out += uint64_t{padded(rank)} * config_.hidden;
  }
}

uint32_t factors_of(const Change& change) {
  return static_cast<uint32_t>(change.shape.factors() / sizeof(float));
}

void FusionBuilder::copy_own(const Change& own, const Fused& fused) {
  uint32_t first = 0;
  for (size_t i = 0; i < own.shape.parts.size(); ++i) {
    const auto [rank, rows] = own.shape.parts[i];
    if (rank == 0) continue;
    arrange(own.buffer, fused,
            {.rows = rows,
             .cols = rank,
             .in_offset = static_cast<uint32_t>(own.shape.b_offset(i) / sizeof(float)),
             .in_row = 1,
             .in_col = rows,
             .out_offset = static_cast<uint32_t>(fused.shape.b_offset(i)),
             .out_row = padded(rank),
             .first = factors_of(own) + first});
    first += rank;
  }
}

// V, U and mixed of the next product.
void FusionBuilder::make_next(const Change* own, const MatrixGroup& group, const Change& next,
                              const Site& site, const Fused& fused) {
  const uint32_t rank = fused.shape.next_rank;
  scale_rows(next, site, false, fused.buffer, fused.shape.u_offset(), bf16_);
  scale_rows(next, site, true, a_, 0, false);
  const gpu::Range step = param(kernels::Step{.tokens = rank});
  const kernels::MatmulBackSpec back{.segments = group.segments, .cols = group.cols};
  program_.add(cache_, kernels::matmul_back_source(back, variant_),
               std::vector<gpu::Range>{group.buffer, v_, a_, step},
               [back, rank](uint32_t) { return kernels::matmul_back_groups(back, rank); });
  arrange(v_, fused,
          {.rows = rank,
           .cols = group.cols,
           .in_row = group.cols,
           .out_offset = static_cast<uint32_t>(fused.shape.v_offset()),
           .out_row = group.cols});
  if (own == nullptr) return;
  // A product before a norm site has one part. Its B is transposed where the stack has it.
  const uint32_t own_rank = own->shape.rank();
  const kernels::GemmSpec mixed{
      .m = rank,
      .n = own_rank,
      .k = config_.hidden,
      .a_m = config_.hidden,
      .b_offset = static_cast<uint32_t>(own->shape.b_offset(0) / sizeof(float)),
      .b_n = config_.hidden,
      .c_m = own_rank};
  program_.add(cache_, kernels::gemm_source(mixed, variant_),
               std::vector<gpu::Range>{a_, own->buffer, mixed_, param(mixed), step},
               [mixed, rank](uint32_t) { return kernels::gemm_groups(mixed, rank); });
  arrange(mixed_, fused.buffer,
          {.rows = rank,
           .cols = own_rank,
           .in_row = own_rank,
           .out_offset = static_cast<uint32_t>(fused.shape.mixed_offset()),
           .out_row = fused.shape.rank(),
           .first = factors_of(*own)},
          own->buffer, bf16_);
}

Result<std::unique_ptr<Fused>> FusionBuilder::make(const Change* own, const MatrixGroup& group,
                                                   const Change* next, const Site* site,
                                                   const Change* handed) {
  FusedChange shape{.cols = group.cols,
                    .next_rank = padded_rank(next),
                    .hidden = config_.hidden,
                    .handed_rank = padded_rank(handed),
                    .handed_cols = handed != nullptr ? handed->shape.cols : 0,
                    .bf16 = bf16_};
  if (own != nullptr) {
    for (const auto& part : own->shape.parts)
      shape.parts.push_back({.rank = padded(part.rank), .rows = part.rows});
  }
  if (!shape.any()) return std::unique_ptr<Fused>();
  auto fused = std::make_unique<Fused>(Fused{.shape = std::move(shape)});
  const uint64_t bytes = fused->shape.bytes();
  if (static_cast<double>(bytes) > device_.info().max_binding_size) {
    return fail(ErrorCode::kOutOfMemory,
                cat("adapters need a binding of ", bytes, " bytes; this GPU allows ",
                    device_.info().max_binding_size));
  }
  TRY(fused->buffer, device_.create_buffer(bytes, gpu::kStorageUsage, "fused adapters"));
  if (own != nullptr) copy_own(*own, *fused);
  if (handed != nullptr) {
    const uint32_t rank = handed->shape.rank();
    arrange(handed->buffer, *fused,
            {.rows = handed->shape.cols,
             .cols = rank,
             .in_row = 1,
             .in_col = static_cast<uint32_t>(handed->shape.row_bytes() / sizeof(float)),
             .out_offset = static_cast<uint32_t>(fused->shape.handed_offset()),
             .out_row = padded(rank)});
  }
  if (next != nullptr) make_next(own, group, *next, *site, *fused);
  return fused;
}

Status FusionBuilder::make_entry(AdapterFusion& fusion, const Change& change, const Site& site) {
  fusion.entry_rank_ = padded_rank(&change);
  const uint64_t floats = uint64_t{fusion.entry_rank_} * config_.hidden;
  TRY(fusion.entry_, device_.create_buffer(2 * floats * sizeof(float), gpu::kStorageUsage,
                                           "entry of fused adapters"));
  scale_rows(change, site, true, fusion.entry_, 0, false);
  scale_rows(change, site, false, fusion.entry_, floats, false);
  return {};
}

Task<Status> FusionBuilder::run() {
  CO_TRY_VOID(co_await cache_.compile());
  CO_TRY_VOID(program_.bind(device_, cache_));
  device_.write(params_, 0, values_);
  gpu::CommandList list;
  list.begin_pass();
  size_t step = 0;
  for (size_t l = 0; l < ends_.size(); ++l) {
    if (l >= weights_.resident && ends_[l] > step) {
      list.end_pass();
      device_.submit(list);
      list.reset();
      const size_t streamed = l - weights_.resident;
      CO_TRY_VOID(co_await weights_.stream->load(streamed, streamed + 1));
      list.begin_pass();
    }
    for (; step < ends_[l]; ++step) program_.record_step(step, list, cache_, 0);
  }
  list.end_pass();
  device_.submit(list);
  co_return co_await device_.sync();
}

Task<Result<AdapterFusion>> AdapterFusion::create(gpu::Device& device, const Config& config,
                                                  const Weights& weights,
                                                  const kernels::Variant& variant,
                                                  const AdapterStack& stack, size_t entry) {
  AdapterFusion fusion;
  if (!can_fuse(config, weights, stack)) co_return fusion;
  FusionBuilder builder(device, config, weights, variant);
  // Where products are exact, changes are.
  CO_TRY_VOID(builder.prepare(variant.dot != kernels::Dot::kF32));
  const size_t layers = weights.layers.size();
  fusion.layers_.resize(layers);
  for (size_t l = 0; l < layers; ++l) {
    const LayerWeights& w = weights.layers[l];
    const auto own = [&](Product product) { return stack.find(l, product); };
    const Change* following = l + 1 < layers ? stack.find(l + 1, Product::kQkv) : nullptr;
    const Site* following_site = l + 1 < layers ? &weights.layers[l + 1].before_attention : nullptr;
    const bool ple = config.per_layer_dim > 0;
    const auto set = [&](Product product) -> std::unique_ptr<Fused>& {
      return fusion.layers_[l][static_cast<size_t>(product)];
    };
    CO_TRY(set(Product::kQkv), builder.make(l == 0 ? nullptr : own(Product::kQkv), w.qkv, nullptr,
                                            nullptr, own(Product::kOutput)));
    CO_TRY(set(Product::kOutput), builder.make(own(Product::kOutput), w.output,
                                               own(Product::kGateUp), &w.before_ffn, nullptr));
    CO_TRY(set(Product::kGateUp),
           builder.make(own(Product::kGateUp), w.gate_up, nullptr, nullptr, own(Product::kDown)));
    CO_TRY(set(Product::kDown), builder.make(own(Product::kDown), w.down, ple ? nullptr : following,
                                             following_site, nullptr));
    if (ple) {
      CO_TRY(set(Product::kPleProj),
             builder.make(nullptr, w.ple_proj, following, following_site, nullptr));
    }
    if (l == entry && l > 0 && own(Product::kQkv) != nullptr)
      CO_TRY_VOID(builder.make_entry(fusion, *own(Product::kQkv), w.before_attention));
    builder.end_layer();
  }
  fusion.bytes_ += fusion.entry_.size();
  for (const auto& layer : fusion.layers_) {
    for (const auto& fused : layer) fusion.bytes_ += fused ? fused->buffer.size() : 0;
  }
  CO_TRY_VOID(co_await builder.run());
  co_return std::move(fusion);
}

}  // namespace lapidary::model
