// RAII over the host's GPU handles: Device, Buffer, Kernel, Bindings, CommandList. The only door to
// the GPU.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gpu/host.h"

namespace lapidary::gpu {

// A move-only handle released through Release.
template <void (*Release)(uint32_t)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(uint32_t id) : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, 0)) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, 0);
    }
    return *this;
  }
  ~Handle() { reset(); }
  void reset() {
    if (id_ != 0) Release(std::exchange(id_, 0));
  }
  uint32_t id() const { return id_; }
  explicit operator bool() const { return id_ != 0; }

 private:
  uint32_t id_ = 0;
};

using BufferHandle = Handle<host_buffer_destroy>;
using KernelHandle = Handle<host_kernel_destroy>;
using Bindings = Handle<host_bindings_destroy>;

// WebGPU's GPUBufferUsage bits.
enum Usage : uint32_t {
  kMapRead = 0x0001,
  kCopySource = 0x0004,
  kCopyTarget = 0x0008,
  kUniform = 0x0040,
  kStorage = 0x0080,
  kQueryResolve = 0x0200,
};
inline constexpr uint32_t kStorageUsage = kStorage | kCopySource | kCopyTarget;
// Small parameter blocks: written by the host or by a kernel, read as uniforms.
inline constexpr uint32_t kParamsUsage = kUniform | kStorage | kCopySource | kCopyTarget;

class Buffer {
 public:
  Buffer() = default;
  Buffer(uint32_t id, uint64_t size) : handle_(id), size_(size) {}
  uint32_t id() const { return handle_.id(); }
  uint64_t size() const { return size_; }
  explicit operator bool() const { return static_cast<bool>(handle_); }

 private:
  BufferHandle handle_;
  uint64_t size_ = 0;
};

struct Kernel {
  KernelHandle handle;
  std::string label;
};

// A range of a buffer as one binding. size 0: to the end.
struct Range {
  uint32_t buffer;
  uint32_t offset = 0;
  uint32_t size = 0;
  Range(const Buffer& b)
      : buffer(b.id()) {}  // NOLINT(google-explicit-constructor): bindings list buffers
  Range(const Buffer& b, uint64_t byte_offset, uint64_t bytes)
      : buffer(b.id()),
        offset(static_cast<uint32_t>(byte_offset)),
        size(static_cast<uint32_t>(bytes)) {}
};

// The range that starts `bytes` (a multiple of 4) into `whole`, moved down to where a binding may
// start; `rest` floats remain.
struct AlignedRange {
  Range range;
  uint32_t rest;
};
inline AlignedRange align(const Range& whole, uint64_t bytes) {
  constexpr uint64_t kAlignment = 256;  // WebGPU's largest
  const uint64_t start = bytes / kAlignment * kAlignment;
  Range range = whole;
  range.offset += static_cast<uint32_t>(start);
  range.size -= static_cast<uint32_t>(start);
  return {range, static_cast<uint32_t>((bytes - start) / sizeof(float))};
}

// The words of one submission (host.h, Op). Built once, kept, and submitted again and again where
// possible.
class CommandList {
 public:
  void begin_pass() { words_.push_back(kOpPassBegin); }
  void end_pass() { words_.push_back(kOpPassEnd); }
  void dispatch(const Kernel& kernel, const Bindings& bindings, uint32_t x, uint32_t y = 1,
                uint32_t z = 1) {
    words_.insert(words_.end(), {kOpDispatch, kernel.handle.id(), bindings.id(), x, y, z});
    ++dispatches_;
  }
  // Multiples of 4 bytes; outside a pass.
  void copy(const Buffer& source, uint64_t source_offset, const Buffer& target,
            uint64_t target_offset, uint64_t bytes) {
    words_.insert(words_.end(),
                  {kOpCopy, source.id(), static_cast<uint32_t>(source_offset), target.id(),
                   static_cast<uint32_t>(target_offset), static_cast<uint32_t>(bytes)});
  }
  void clear(const Buffer& buffer, uint64_t offset, uint64_t bytes) {
    words_.insert(words_.end(), {kOpClear, buffer.id(), static_cast<uint32_t>(offset),
                                 static_cast<uint32_t>(bytes)});
  }
  // Reads bytes back within this submission, so that a step needs no second one. The words must be
  // submitted from inside the HostCall that owns `ticket`.
  void read(const Buffer& buffer, uint64_t offset, uint32_t bytes, void* address, uint32_t ticket) {
    read(Range(buffer, offset, bytes), bytes, address, ticket);
  }
  // From the start of a range.
  void read(const Range& range, uint32_t bytes, void* address, uint32_t ticket) {
    words_.insert(words_.end(),
                  {kOpRead, range.buffer, range.offset, bytes,
                   static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address)), ticket});
  }
  void reset() {
    words_.clear();
    dispatches_ = 0;
  }
  std::span<const uint32_t> words() const { return words_; }
  uint32_t dispatches() const { return dispatches_; }

 private:
  std::vector<uint32_t> words_;
  uint32_t dispatches_ = 0;
};

class Device {
 public:
  Device() { host_gpu_info(&info_); }
  // A device of these limits that makes nothing: its buffers have a size alone. It tells what would
  // be needed (model/memory_plan.h).
  explicit Device(const GpuInfo& limits) : info_(limits), measures_(true) {}
  const GpuInfo& info() const { return info_; }
  bool has(GpuFeature feature) const { return (info_.features & feature) != 0; }

  // kOutOfMemory when the size exceeds the adapter's limits.
  Result<Buffer> create_buffer(uint64_t bytes, uint32_t usage, std::string_view label);
  void write(const Buffer& buffer, uint64_t offset, std::span<const std::byte> data) const {
    host_buffer_write(buffer.id(), static_cast<double>(offset), data.data(),
                      static_cast<uint32_t>(data.size()));
  }
  // Compiles WGSL with the binding layout of host.h's host_kernel_create; kGpu with the compiler's
  // words.
  Task<Result<Kernel>> create_kernel(std::string wgsl, std::string layout, std::string label);
  // Ranges in binding order. kGpu when the host refuses.
  Result<Bindings> create_bindings(const Kernel& kernel, std::span<const Range> ranges) const;
  Result<Bindings> create_bindings(const Kernel& kernel,
                                   std::initializer_list<Range> ranges) const {
    return create_bindings(kernel, std::span(ranges.begin(), ranges.size()));
  }
  void submit(const CommandList& list) const {
    host_submit(list.words().data(), static_cast<uint32_t>(list.words().size()));
  }
  // Reads bytes [offset, offset + out.size()); both multiples of 4. `out` must outlive the wait.
  Task<Status> read(const Buffer& buffer, uint64_t offset, std::span<std::byte> out) const;
  // Waits for all submitted work; any GPU error since the last sync comes back here.
  Task<Status> sync() const;
  // Whether a sync has reported that the GPU had no memory left. (A limit of the adapter is none of
  // that: create_buffer reports it.)
  bool ran_out_of_memory() const { return ran_out_of_memory_; }

 private:
  GpuInfo info_{};
  bool measures_ = false;
  mutable bool ran_out_of_memory_ = false;
};

}  // namespace lapidary::gpu
