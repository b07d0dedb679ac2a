// What probes share: how they answer, and the kernels that they run.
#pragma once

#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/gpu/device.h"
#include "engine/kernels/compose.h"

namespace lapidary {

// Completes a call with values, or with the error in their place.
template <typename T>
void complete_call(uint32_t call, const Result<std::vector<T>>& values) {
  if (values) {
    gpu::host_complete(call, 0, reinterpret_cast<const char*>(values->data()),
                       static_cast<uint32_t>(values->size() * sizeof(T)));
  } else {
    const std::string& message = values.error().message;
    gpu::host_complete(call, static_cast<uint32_t>(values.error().code), message.data(),
                       static_cast<uint32_t>(message.size()));
  }
}

// The variant that a load takes for towers.
inline kernels::Variant tower_variant(const gpu::Device& device) {
  return {.subgroups = device.has(gpu::kFeatureSubgroups), .light = device.info().is_software != 0};
}

}  // namespace lapidary
