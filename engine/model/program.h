// A program: the dispatches of one stretch of the model, recorded once with their buffers, bound
// after compilation, and walked into a command list at every submission.
#pragma once

#include <functional>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/cache.h"

namespace lapidary::model {

// Workgroups as a function of the step: the number of tokens (batch) or the position (decode). None
// (x = 0): the dispatch is left out.
using GroupsOf = std::function<kernels::Groups(uint32_t)>;

class Program {
 public:
  void add(kernels::KernelCache& cache, kernels::KernelSource source,
           std::initializer_list<gpu::Range> ranges, GroupsOf groups) {
    add(cache, std::move(source), std::vector<gpu::Range>(ranges), std::move(groups));
  }
  void add(kernels::KernelCache& cache, kernels::KernelSource source,
           std::vector<gpu::Range> ranges, GroupsOf groups) {
    steps_.push_back({cache.add(std::move(source)), std::move(ranges), std::move(groups), {}});
  }
  void add(kernels::KernelCache& cache, kernels::KernelSource source,
           std::initializer_list<gpu::Range> ranges, kernels::Groups groups) {
    add(cache, std::move(source), std::vector<gpu::Range>(ranges),
        [groups](uint32_t) { return groups; });
  }

  // After KernelCache::compile: makes the bindings, which live as long as the program.
  Status bind(const gpu::Device& device, const kernels::KernelCache& cache) {
    for (Step& step : steps_) {
      if (step.bindings) continue;
      TRY(step.bindings, device.create_bindings(cache[step.slot], step.ranges));
    }
    return {};
  }

  // Inside a pass.
  void record(gpu::CommandList& list, const kernels::KernelCache& cache, uint32_t n) const {
    for (size_t i = 0; i < steps_.size(); ++i) record_step(i, list, cache, n);
  }
  // One dispatch of it.
  void record_step(size_t index, gpu::CommandList& list, const kernels::KernelCache& cache,
                   uint32_t n) const {
    const Step& step = steps_[index];
    const kernels::Groups groups = step.groups(n);
    if (groups.x == 0) return;
    list.dispatch(cache[step.slot], step.bindings, groups.x, groups.y, groups.z);
  }
  void clear() {
    steps_.clear();
    marks_.clear();
  }
  // Notes where it is to be taken apart: what is recorded next.
  void mark() { marks_.push_back(steps_.size()); }
  const std::vector<size_t>& marks() const { return marks_; }
  size_t size() const { return steps_.size(); }

 private:
  struct Step {
    uint32_t slot;
    std::vector<gpu::Range> ranges;
    GroupsOf groups;
    gpu::Bindings bindings;
  };
  std::vector<Step> steps_;
  std::vector<size_t> marks_;
};

}  // namespace lapidary::model
