#include "engine/kernels/cache.h"

namespace lapidary::kernels {

// Counts the compilations under way; the last one to end wakes compile().
struct KernelCache::Batch {
  uint32_t total = 0;
  uint32_t done = 0;
  Status first_failure;
  std::function<void(uint32_t, uint32_t)> progress;
  std::coroutine_handle<> waiter;

  bool await_ready() const { return done == total; }
  void await_suspend(std::coroutine_handle<> handle) { waiter = handle; }
  void await_resume() const {}
};

uint32_t KernelCache::add(KernelSource source) {
  for (uint32_t i = 0; i < entries_.size(); ++i) {
    const KernelSource& known = entries_[i].source;
    if (known.wgsl == source.wgsl && known.layout == source.layout) return i;
  }
  entries_.push_back({std::move(source), {}});
  return static_cast<uint32_t>(entries_.size() - 1);
}

Task<void> KernelCache::compile_one(uint32_t slot, Batch& batch) {
  const KernelSource& source = entries_[slot].source;
  Result<gpu::Kernel> kernel =
      co_await device_.create_kernel(source.wgsl, source.layout, source.label);
  if (kernel) {
    entries_[slot].kernel = std::move(*kernel);
  } else if (batch.first_failure) {
    batch.first_failure = std::unexpected(kernel.error());
  }
  ++batch.done;
  if (batch.progress) batch.progress(batch.done, batch.total);
  if (batch.done == batch.total && batch.waiter) std::exchange(batch.waiter, nullptr).resume();
}

Task<Status> KernelCache::compile(std::function<void(uint32_t, uint32_t)> progress) {
  const auto end = static_cast<uint32_t>(entries_.size());
  Batch batch{.total = end - compiled_, .progress = std::move(progress)};
  for (uint32_t slot = compiled_; slot < end; ++slot) spawn(compile_one(slot, batch));
  co_await batch;
  if (batch.first_failure) compiled_ = end;
  co_return batch.first_failure;
}

}  // namespace lapidary::kernels
