// Small files of the host, read whole.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/task.h"

namespace lapidary::gpu {

// The bytes of a source, in a few reads. `what` names it in messages: "the adapter's file".
// kUnsupported: more than `most` bytes; kCancelled; errors of the source.
Task<Result<std::vector<std::byte>>> read_source(uint32_t source, uint64_t most,
                                                 std::string_view what,
                                                 std::function<bool()> cancelled);

}  // namespace lapidary::gpu
