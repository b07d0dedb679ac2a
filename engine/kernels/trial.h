// Runs kernels once on given data and reads the answers back: what self-tests and kernel tests
// share.
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// A buffer that can be bound in every way, holding `data` (at least 16 bytes large).
Result<gpu::Buffer> trial_buffer(gpu::Device& device, std::span<const std::byte> data);
template <typename T>
Result<gpu::Buffer> trial_buffer(gpu::Device& device, const std::vector<T>& data) {
  return trial_buffer(device, std::as_bytes(std::span(data)));
}
// A buffer of zeros.
Result<gpu::Buffer> trial_zeros(gpu::Device& device, uint64_t bytes);

// Compiles a kernel.
Task<Result<gpu::Kernel>> trial_kernel(gpu::Device& device, KernelSource source);
// Dispatches a kernel once. Does not wait.
Status trial_dispatch(gpu::Device& device, const gpu::Kernel& kernel,
                      std::span<const gpu::Range> bindings, Groups groups);
// Compiles a kernel and dispatches it once. Does not wait.
Task<Status> trial_run(gpu::Device& device, KernelSource source, std::vector<gpu::Range> bindings,
                       Groups groups);

// The first `count` values of a buffer.
template <typename T>
Task<Result<std::vector<T>>> trial_read(gpu::Device& device, const gpu::Buffer& buffer,
                                        size_t count) {
  static_assert(sizeof(T) % 4 == 0);
  std::vector<T> out(count);
  CO_TRY_VOID(co_await device.read(buffer, 0, std::as_writable_bytes(std::span(out))));
  co_return out;
}

// gelu, tanh form (reference::gelu), in double.
double trial_gelu(double x);

// The same random numbers everywhere: uniform in [-1, 1).
class TrialRandom {
 public:
  explicit TrialRandom(uint32_t seed) : state_(seed * 2654435761u + 1) {}
  uint32_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_;
  }
  float next() { return static_cast<float>(bits() >> 8) / 8388608.0f - 1.0f; }
  std::vector<float> floats(size_t count, float scale = 1.0f, float offset = 0.0f) {
    std::vector<float> out(count);
    for (float& x : out) x = next() * scale + offset;
    return out;
  }

 private:
  uint32_t state_;
};

}  // namespace lapidary::kernels
