// The imports (module "host") through which the engine reaches the GPU, byte sources and its
// caller. This is the only place where they are declared; packages/lapidary/src/gpu/ implements
// them. A native host can do the same.
//
// Handles are positive; 0 means none. Offsets and sizes that may pass 2^32 travel as doubles (exact
// to 2^53). A function that takes a ticket finishes later: the host calls the export
// lap_resume(ticket, code, message), never from inside the import itself. Pointers given with a
// ticket stay valid until that call.
#pragma once

#include <cstdint>

#include "engine/base/error.h"
#include "engine/base/task.h"

namespace lapidary::gpu {

// Filled by host_gpu_info. Sizes in bytes; feature bits below.
struct GpuInfo {
  double max_buffer_size;
  double max_binding_size;
  uint32_t max_storage_buffers;
  uint32_t max_workgroup_storage;
  uint32_t max_invocations;
  uint32_t max_workgroups_per_dimension;
  uint32_t storage_alignment;
  uint32_t uniform_alignment;
  uint32_t subgroup_min_size;
  uint32_t subgroup_max_size;
  uint32_t features;
  uint32_t is_software;
};
enum GpuFeature : uint32_t {
  kFeatureF16 = 1,
  kFeatureSubgroups = 2,
  kFeatureTimestamps = 4,
  kFeatureDot4I8 = 8,
  // Subgroup matrices of 16 by 16 halves summed in f32, in subgroups that always have 32 threads.
  kFeatureMatrix = 16,
};

// One flat array of words describes a submission. Each operation: its code, then its operands.
enum Op : uint32_t {
  kOpPassBegin = 1,  // (none)
  kOpPassEnd = 2,    // (none)
  kOpDispatch = 3,   // kernel, bindings, x, y, z
  kOpCopy = 4,       // source, source offset, target, target offset, bytes
  kOpClear = 5,      // buffer, offset, bytes
  kOpRead = 6,       // buffer, offset, bytes, address, ticket: a read-back inside the submission
};

#if defined(__wasm__)
#define LAPIDARY_IMPORT(name) __attribute__((import_module("host"), import_name(name)))
#else
#define LAPIDARY_IMPORT(name)
#endif

extern "C" {
// level: 0 debug, 1 info, 2 warning, 3 error.
LAPIDARY_IMPORT("log") void host_log(uint32_t level, const char* text, uint32_t length);
// Milliseconds on a monotonic clock.
LAPIDARY_IMPORT("now") double host_now();
// A seed that nobody can predict: 53 random bits.
LAPIDARY_IMPORT("random") double host_random_bits();
// A message for the caller of `call` (JSON), and the end of a call with its result (JSON) or error.
LAPIDARY_IMPORT("emit") void host_emit(uint32_t call, const char* json, uint32_t length);
LAPIDARY_IMPORT("complete")
void host_complete(uint32_t call, uint32_t code, const char* text, uint32_t length);

LAPIDARY_IMPORT("gpu_info") void host_gpu_info(GpuInfo* info);
// 0 when the size exceeds a limit; a failing allocation shows at the next host_gpu_sync.
LAPIDARY_IMPORT("buffer_create")
uint32_t host_buffer_create(double size, uint32_t usage, const char* label, uint32_t label_length);
LAPIDARY_IMPORT("buffer_destroy") void host_buffer_destroy(uint32_t buffer);
LAPIDARY_IMPORT("buffer_write")
void host_buffer_write(uint32_t buffer, double offset, const void* data, uint32_t size);
// Offset and size are multiples of 4. The buffer must allow copying from it.
LAPIDARY_IMPORT("buffer_read")
void host_buffer_read(uint32_t buffer, double offset, void* data, uint32_t size, uint32_t ticket);
// layout: one letter a binding of group 0, in order: r read-only storage, w storage, u uniform.
LAPIDARY_IMPORT("kernel_create")
uint32_t host_kernel_create(const char* wgsl, uint32_t wgsl_length, const char* layout,
                            uint32_t layout_length, const char* label, uint32_t label_length,
                            uint32_t ticket);
LAPIDARY_IMPORT("kernel_destroy") void host_kernel_destroy(uint32_t kernel);
// ranges: buffer, offset, size a binding; size 0 means to the end.
LAPIDARY_IMPORT("bindings_create")
uint32_t host_bindings_create(uint32_t kernel, const uint32_t* ranges, uint32_t count);
LAPIDARY_IMPORT("bindings_destroy") void host_bindings_destroy(uint32_t bindings);
LAPIDARY_IMPORT("submit") void host_submit(const uint32_t* words, uint32_t count);
// Resumes when all submitted work is done; reports any GPU error since the last sync.
LAPIDARY_IMPORT("gpu_sync") void host_gpu_sync(uint32_t ticket);

LAPIDARY_IMPORT("source_size") double host_source_size(uint32_t source);
LAPIDARY_IMPORT("source_read")
void host_source_read(uint32_t source, double offset, void* data, uint32_t size, uint32_t ticket);
// Streams bytes from a source straight into a GPU buffer, past the wasm heap.
LAPIDARY_IMPORT("source_upload")
void host_source_upload(uint32_t source, double offset, double size, uint32_t buffer,
                        double buffer_offset, uint32_t ticket);
}

inline uint64_t host_random() { return static_cast<uint64_t>(host_random_bits()); }

// co_await HostCall([&](uint32_t ticket) { host_…(…, ticket); }) gives the Status that the host
// reports.
class HostCallBase {
 public:
  // Wakes the frame parked on `ticket`; false for a ticket that is not in flight.
  static bool resume(uint32_t ticket, ErrorCode code, std::string message);
  static uint32_t in_flight();

 protected:
  uint32_t park(std::coroutine_handle<> handle);
  void release();
  Status take_status() {
    if (code_ == ErrorCode::kOk) return {};
    return fail(code_, std::move(message_));
  }
  std::coroutine_handle<> handle_;
  uint32_t ticket_ = 0;
  bool done_ = false;
  ErrorCode code_ = ErrorCode::kOk;
  std::string message_;
};

template <typename Start>
class HostCall : private HostCallBase {
 public:
  explicit HostCall(Start start) : start_(std::move(start)) {}
  HostCall(const HostCall&) = delete;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) { start_(park(handle)); }
  Status await_resume() { return take_status(); }

 private:
  Start start_;
};

// A host call that is started now and awaited later, so that several can be in flight. It must stay
// where it is from start() until it is done; awaiting one that was never started gives success at
// once.
class HostFuture : private HostCallBase {
 public:
  HostFuture() { done_ = true; }
  HostFuture(const HostFuture&) = delete;
  // Only a ticket that the host never got may still be open here.
  ~HostFuture() {
    if (!done_) release();
  }
  // The ticket to hand to the host.
  uint32_t start() {
    done_ = false;
    code_ = ErrorCode::kOk;
    return park(nullptr);
  }
  bool await_ready() const noexcept { return done_; }
  void await_suspend(std::coroutine_handle<> handle) { handle_ = handle; }
  Status await_resume() { return take_status(); }
};

}  // namespace lapidary::gpu
