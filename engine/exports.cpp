// Every function that lapidary.wasm exports, and nothing else.
#include <cstdlib>

#include "engine/gpu/host.h"

#define LAPIDARY_EXPORT(name) extern "C" __attribute__((export_name(#name)))

LAPIDARY_EXPORT(lap_alloc) void* lap_alloc(uint32_t size) { return std::malloc(size == 0 ? 1 : size); }
LAPIDARY_EXPORT(lap_free) void lap_free(void* pointer) { std::free(pointer); }
LAPIDARY_EXPORT(lap_resume)
void lap_resume(uint32_t ticket, uint32_t code, const char* text, uint32_t length) {
  lapidary::gpu::HostCallBase::resume(ticket, static_cast<lapidary::ErrorCode>(code), std::string(text, length));
}
