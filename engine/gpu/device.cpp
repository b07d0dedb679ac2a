#include "engine/gpu/device.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::gpu {

Result<Buffer> Device::create_buffer(uint64_t bytes, uint32_t usage, std::string_view label) {
  const uint64_t size = round_up(bytes == 0 ? 16 : bytes, 16);
  if (static_cast<double>(size) > info_.max_buffer_size) {
    return fail(ErrorCode::kOutOfMemory,
                cat("GPU buffer '", label, "' needs ", size, " bytes; this adapter allows ",
                    info_.max_buffer_size));
  }
  if (measures_) return Buffer(0, size);
  const uint32_t id = host_buffer_create(static_cast<double>(size), usage, label.data(),
                                         static_cast<uint32_t>(label.size()));
  if (id == 0)
    return fail(ErrorCode::kOutOfMemory,
                cat("GPU buffer '", label, "' (", size, " bytes) refused"));
  return Buffer(id, size);
}

Task<Result<Kernel>> Device::create_kernel(std::string wgsl, std::string layout,
                                           std::string label) {
  Kernel kernel;
  CO_TRY_VOID(co_await HostCall([&](uint32_t ticket) {
    kernel.handle =
        KernelHandle(host_kernel_create(wgsl.data(), static_cast<uint32_t>(wgsl.size()),
                                        layout.data(), static_cast<uint32_t>(layout.size()),
                                        label.data(), static_cast<uint32_t>(label.size()), ticket));
  }));
  kernel.label = std::move(label);
  co_return kernel;
}

Result<Bindings> Device::create_bindings(const Kernel& kernel,
                                         std::span<const Range> ranges) const {
  static_assert(sizeof(Range) == 12);
  const uint32_t id =
      host_bindings_create(kernel.handle.id(), reinterpret_cast<const uint32_t*>(ranges.data()),
                           static_cast<uint32_t>(ranges.size()));
  if (id == 0)
    return fail(ErrorCode::kGpu, cat("bindings for kernel '", kernel.label, "' refused"));
  return Bindings(id);
}

Task<Status> Device::read(const Buffer& buffer, uint64_t offset, std::span<std::byte> out) const {
  co_return co_await HostCall([&](uint32_t ticket) {
    host_buffer_read(buffer.id(), static_cast<double>(offset), out.data(),
                     static_cast<uint32_t>(out.size()), ticket);
  });
}

Task<Status> Device::sync() const {
  Status status = co_await HostCall([](uint32_t ticket) { host_gpu_sync(ticket); });
  if (!status && status.error().code == ErrorCode::kOutOfMemory) ran_out_of_memory_ = true;
  co_return status;
}

}  // namespace lapidary::gpu
