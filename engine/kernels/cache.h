// Compiled kernels, each once: equal sources share a slot, and all that wait are compiled side by
// side.
#pragma once

#include <functional>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/compose.h"

namespace lapidary::kernels {

class KernelCache {
 public:
  explicit KernelCache(gpu::Device& device) : device_(device) {}

  // The slot of a kernel that the next compile() makes usable.
  uint32_t add(KernelSource source);
  // Takes back what was added since the last compile(): slots from then on are free again.
  void forget_added() { entries_.resize(compiled_); }
  // Compiles what was added since the last call; the first failure is returned when all have ended.
  // progress(done, total) counts kernels.
  Task<Status> compile(std::function<void(uint32_t, uint32_t)> progress = nullptr);
  const gpu::Kernel& operator[](uint32_t slot) const { return entries_[slot].kernel; }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    KernelSource source;
    gpu::Kernel kernel;
  };
  struct Batch;
  Task<void> compile_one(uint32_t slot, Batch& batch);

  gpu::Device& device_;
  std::vector<Entry> entries_;
  uint32_t compiled_ = 0;
};

}  // namespace lapidary::kernels
