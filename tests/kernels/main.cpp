// Exports of kernel_tests.wasm: the list of tests, and running one of them.
#include <cstdlib>
#include <vector>

#include "tests/kernels/kernel_test.h"

namespace lapidary::testing {
namespace {

struct Entry {
  std::string_view name;
  KernelTest test;
};
std::vector<Entry>& entries() {
  static std::vector<Entry> list;
  return list;
}

Task<void> run(uint32_t call, Entry entry) {
  gpu::Device device;
  Status status = co_await entry.test(device);
  if (status) status = co_await device.sync();
  if (status) {
    gpu::host_complete(call, 0, "", 0);
  } else {
    const std::string& message = status.error().message;
    gpu::host_complete(call, static_cast<uint32_t>(status.error().code), message.data(),
                       static_cast<uint32_t>(message.size()));
  }
}

}  // namespace

Registration::Registration(std::string_view name, KernelTest test) {
  entries().push_back({name, test});
}

}  // namespace lapidary::testing

using lapidary::testing::entries;

namespace {
std::string result;
}

#define LAPIDARY_EXPORT(name) extern "C" __attribute__((export_name(#name)))

LAPIDARY_EXPORT(lap_alloc) void* lap_alloc(uint32_t size) {
  return std::malloc(size == 0 ? 1 : size);
}
LAPIDARY_EXPORT(lap_free) void lap_free(void* pointer) { std::free(pointer); }
LAPIDARY_EXPORT(lap_resume)
void lap_resume(uint32_t ticket, uint32_t code, const char* text, uint32_t length) {
  lapidary::gpu::HostCallBase::resume(ticket, static_cast<lapidary::ErrorCode>(code),
                                      std::string(text, length));
}
LAPIDARY_EXPORT(lap_result_data) const char* lap_result_data() { return result.data(); }
LAPIDARY_EXPORT(lap_result_size) uint32_t lap_result_size() { return result.size(); }
LAPIDARY_EXPORT(test_count) uint32_t test_count() {
  result = lapidary::cat(entries().size());
  return 0;
}
LAPIDARY_EXPORT(test_name) uint32_t test_name(uint32_t index) {
  result = entries()[index].name;
  return 0;
}
LAPIDARY_EXPORT(test_run) void test_run(uint32_t call, uint32_t index) {
  lapidary::spawn(lapidary::testing::run(call, entries()[index]));
}
