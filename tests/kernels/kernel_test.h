// A registry of tests that run on the GPU inside wasm: KERNEL_TEST(name) { …; co_return Status{}; }
#pragma once

#include <string_view>

#include "engine/base/error.h"
#include "engine/base/task.h"
#include "engine/base/text.h"
#include "engine/gpu/device.h"

namespace lapidary::testing {

using KernelTest = Task<Status> (*)(gpu::Device&);

struct Registration {
  Registration(std::string_view name, KernelTest test);
};

#define KERNEL_TEST(name)                                                            \
  static ::lapidary::Task<::lapidary::Status> name(::lapidary::gpu::Device& device); \
  static const ::lapidary::testing::Registration name##_registration(#name, name);   \
  static ::lapidary::Task<::lapidary::Status> name([[maybe_unused]] ::lapidary::gpu::Device& device)

// In a test: fails it with a message built from the parts.
#define KERNEL_EXPECT(condition, ...)                                                     \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      co_return ::lapidary::fail(::lapidary::ErrorCode::kInternal,                        \
                                 ::lapidary::cat(#condition " is false: ", __VA_ARGS__)); \
    }                                                                                     \
  } while (false)

}  // namespace lapidary::testing
