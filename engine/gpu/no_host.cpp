// The host of native unit tests, which have no GPU and no sources. Code that would use them is
// linked where a test needs its neighbour; a test that calls it is wrong, and ends here.
#include <cstdio>
#include <cstdlib>

#include "engine/gpu/host.h"

namespace lapidary::gpu {
namespace {

[[noreturn]] void none(const char* what) {
  std::fprintf(stderr, "there is no host natively: %s\n", what);
  std::abort();
}

}  // namespace

// Weak: a test may bring some of its own.
#pragma clang attribute push(__attribute__((weak)), apply_to = function)
extern "C" {
void host_log(uint32_t /*level*/, const char* text, uint32_t length) {
  std::fprintf(stderr, "%.*s\n", static_cast<int>(length), text);
}
double host_now() { none("now"); }
double host_random_bits() { none("random_bits"); }
void host_emit(uint32_t, const char*, uint32_t) { none("emit"); }
void host_complete(uint32_t, uint32_t, const char*, uint32_t) { none("complete"); }
void host_gpu_info(GpuInfo*) { none("gpu_info"); }
uint32_t host_buffer_create(double, uint32_t, const char*, uint32_t) { none("buffer_create"); }
void host_buffer_destroy(uint32_t) { none("buffer_destroy"); }
void host_buffer_write(uint32_t, double, const void*, uint32_t) { none("buffer_write"); }
void host_buffer_read(uint32_t, double, void*, uint32_t, uint32_t) { none("buffer_read"); }
uint32_t host_kernel_create(const char*, uint32_t, const char*, uint32_t, const char*, uint32_t,
                            uint32_t) {
  none("kernel_create");
}
void host_kernel_destroy(uint32_t) { none("kernel_destroy"); }
uint32_t host_bindings_create(uint32_t, const uint32_t*, uint32_t) { none("bindings_create"); }
void host_bindings_destroy(uint32_t) { none("bindings_destroy"); }
void host_submit(const uint32_t*, uint32_t) { none("submit"); }
void host_gpu_sync(uint32_t) { none("gpu_sync"); }
double host_source_size(uint32_t) { none("source_size"); }
void host_source_read(uint32_t, double, void*, uint32_t, uint32_t) { none("source_read"); }
void host_source_upload(uint32_t, double, double, uint32_t, double, uint32_t) {
  none("source_upload");
}
}
#pragma clang attribute pop

}  // namespace lapidary::gpu
