#include "engine/kernels/trial.h"

#include <cmath>
#include <numbers>

#include <algorithm>

namespace lapidary::kernels {

Result<gpu::Buffer> trial_zeros(gpu::Device& device, uint64_t bytes) {
  const uint64_t size = std::max<uint64_t>((bytes + 15) / 16 * 16, 16);
  return device.create_buffer(size, gpu::kParamsUsage, "trial");
}

Result<gpu::Buffer> trial_buffer(gpu::Device& device, std::span<const std::byte> data) {
  TRY(gpu::Buffer buffer, trial_zeros(device, data.size()));
  if (!data.empty()) device.write(buffer, 0, data);
  return buffer;
}

Task<Result<gpu::Kernel>> trial_kernel(gpu::Device& device, KernelSource source) {
  co_return co_await device.create_kernel(std::move(source.wgsl), std::move(source.layout),
                                          std::move(source.label));
}

Status trial_dispatch(gpu::Device& device, const gpu::Kernel& kernel,
                      std::span<const gpu::Range> bindings, Groups groups) {
  TRY(gpu::Bindings bound, device.create_bindings(kernel, bindings));
  gpu::CommandList list;
  list.begin_pass();
  list.dispatch(kernel, bound, groups.x, groups.y, groups.z);
  list.end_pass();
  device.submit(list);
  return {};
}

Task<Status> trial_run(gpu::Device& device, KernelSource source, std::vector<gpu::Range> bindings,
                       Groups groups) {
  CO_TRY(const gpu::Kernel kernel, co_await trial_kernel(device, std::move(source)));
  co_return trial_dispatch(device, kernel, bindings, groups);
}

double trial_gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

}  // namespace lapidary::kernels
