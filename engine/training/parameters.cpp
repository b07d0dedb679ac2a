#include "engine/training/parameters.h"

#include <algorithm>

#include "engine/base/text.h"

namespace lapidary::training {
namespace {

// Matrices start where a binding may.
constexpr uint64_t kAlignment = 64;  // floats
constexpr uint64_t kMostFloats = 1 << 26;

uint64_t aligned(uint64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

uint64_t size_of(const adapter::LoraModule& m) { return aligned(m.a.size()) + aligned(m.b.size()); }

}  // namespace

void Parameters::place(const adapter::LoraAdapter& adapter, uint64_t most) {
  for (const adapter::LoraModule& m : adapter.modules) {
    const uint64_t size = size_of(m);
    if (pools_.empty() || pools_.back().size + size > most) pools_.emplace_back();
    Pool& pool = pools_.back();
    modules_.push_back({.role = m.role,
                        .layer = m.layer,
                        .rank = m.rank,
                        .inputs = m.inputs,
                        .outputs = m.outputs,
                        .scale = static_cast<float>(adapter::scale(adapter, m)),
                        .pool = static_cast<uint32_t>(pools_.size() - 1),
                        .a = pool.size,
                        .b = pool.size + aligned(m.a.size())});
    pool.size += static_cast<uint32_t>(size);
  }
}

uint64_t Parameters::bytes_for(const adapter::LoraAdapter& adapter) {
  uint64_t floats = 0;
  for (const adapter::LoraModule& m : adapter.modules) floats += size_of(m);
  return 4 * floats * sizeof(float);  // values, gradients and two moments
}

Result<Parameters> Parameters::plan(const gpu::Device& device,
                                    const adapter::LoraAdapter& adapter) {
  Parameters self;
  // Of a pool the moments are largest: two a value.
  const double binding = std::min(device.info().max_binding_size, device.info().max_buffer_size);
  const uint64_t most = std::min<uint64_t>(static_cast<uint64_t>(binding) / 8, kMostFloats);
  for (const adapter::LoraModule& m : adapter.modules) {
    if (size_of(m) > most)
      return fail(
          ErrorCode::kOutOfMemory,
          cat(adapter::module_name(m), ": the adapter's matrices are too large for this GPU"));
  }
  self.place(adapter, most);
  return self;
}

Result<Parameters> Parameters::create(gpu::Device& device, const adapter::LoraAdapter& adapter) {
  TRY(Parameters self, plan(device, adapter));
  uint32_t parts = 0;
  for (Pool& pool : self.pools_) {
    const uint64_t bytes = uint64_t{pool.size} * sizeof(float);
    TRY(pool.values, device.create_buffer(bytes, gpu::kStorageUsage, "adapter values"));
    TRY(pool.gradients, device.create_buffer(bytes, gpu::kStorageUsage, "adapter gradients"));
    TRY(pool.moments, device.create_buffer(2 * bytes, gpu::kStorageUsage, "adapter moments"));
    parts += kernels::square_parts(pool.size);
  }
  TRY(self.partial_,
      device.create_buffer(std::max(16u, parts * 4), gpu::kStorageUsage, "sums of squares"));
  TRY_VOID(self.write(device, Part::kValues, self.gather(adapter)));
  return self;
}

const Module* Parameters::find(model::TensorRole role, uint32_t layer) const {
  const auto it = std::ranges::find_if(
      modules_, [&](const Module& m) { return m.role == role && m.layer == layer; });
  return it == modules_.end() ? nullptr : &*it;
}

uint64_t Parameters::count() const {
  uint64_t total = 0;
  for (const Module& m : modules_) total += m.a_size() + m.b_size();
  return total;
}

void Parameters::record(kernels::KernelCache& cache, const kernels::Variant& variant,
                        const gpu::Buffer& result, const gpu::Buffer& adam) {
  uint32_t parts = 0;
  for (const Pool& pool : pools_) {
    norm_.add(cache, kernels::sum_squares_source(pool.size, parts, variant),
              {pool.gradients, partial_}, kernels::Groups{kernels::square_parts(pool.size), 1, 1});
    parts += kernels::square_parts(pool.size);
    step_.add(cache, kernels::adamw_source(pool.size),
              {pool.values, pool.gradients, pool.moments, result, adam},
              kernels::adamw_groups(pool.size));
  }
  norm_.add(cache, kernels::total_squares_source(parts, variant), {partial_, result},
            kernels::Groups{});
}

Status Parameters::bind(const gpu::Device& device, const kernels::KernelCache& cache) {
  TRY_VOID(norm_.bind(device, cache));
  return step_.bind(device, cache);
}

void Parameters::append_step(gpu::CommandList& list, const kernels::KernelCache& cache) const {
  list.begin_pass();
  norm_.record(list, cache, 1);
  step_.record(list, cache, 1);
  list.end_pass();
}

void Parameters::append_clear(gpu::CommandList& list) const {
  for (const Pool& pool : pools_)
    list.clear(pool.gradients, 0, uint64_t{pool.size} * sizeof(float));
}

const gpu::Buffer& Parameters::buffer(const Pool& pool, Part part) const {
  return part == Part::kValues      ? pool.values
         : part == Part::kGradients ? pool.gradients
                                    : pool.moments;
}

Task<Result<std::vector<float>>> Parameters::read(gpu::Device& device, Part part) const {
  const size_t each = part == Part::kMoments ? 2 : 1;
  size_t total = 0;
  for (const Pool& pool : pools_) total += each * pool.size;
  std::vector<float> all(total);
  size_t at = 0;
  for (const Pool& pool : pools_) {
    const auto run = std::span(all).subspan(at, each * pool.size);
    CO_TRY_VOID(co_await device.read(buffer(pool, part), 0, std::as_writable_bytes(run)));
    at += run.size();
  }
  co_return all;
}

Status Parameters::write(gpu::Device& device, Part part, std::span<const float> all) {
  const size_t each = part == Part::kMoments ? 2 : 1;
  size_t total = 0;
  for (const Pool& pool : pools_) total += each * pool.size;
  if (all.size() != total)
    return fail(ErrorCode::kInvalidArgument,
                cat("the training state has ", all.size(), " values instead of ", total));
  size_t at = 0;
  for (const Pool& pool : pools_) {
    const auto run = all.subspan(at, each * pool.size);
    device.write(buffer(pool, part), 0, std::as_bytes(run));
    at += run.size();
  }
  return {};
}

void Parameters::store(std::span<const float> values, adapter::LoraAdapter& adapter) const {
  std::vector<size_t> starts = {0};
  for (const Pool& pool : pools_) starts.push_back(starts.back() + pool.size);
  for (size_t i = 0; i < modules_.size(); ++i) {
    const Module& m = modules_[i];
    const auto pool = values.subspan(starts[m.pool]);
    const auto a = pool.subspan(m.a, m.a_size());
    const auto b = pool.subspan(m.b, m.b_size());
    adapter.modules[i].a.assign(a.begin(), a.end());
    adapter.modules[i].b.assign(b.begin(), b.end());
  }
}

std::vector<float> Parameters::gather(const adapter::LoraAdapter& adapter) const {
  std::vector<size_t> starts = {0};
  for (const Pool& pool : pools_) starts.push_back(starts.back() + pool.size);
  std::vector<float> values(starts.back());
  for (size_t i = 0; i < modules_.size(); ++i) {
    const Module& m = modules_[i];
    const size_t start = starts[m.pool];
    std::ranges::copy(adapter.modules[i].a, values.begin() + static_cast<ptrdiff_t>(start + m.a));
    std::ranges::copy(adapter.modules[i].b, values.begin() + static_cast<ptrdiff_t>(start + m.b));
  }
  return values;
}

}  // namespace lapidary::training
