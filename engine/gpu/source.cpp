#include "engine/gpu/source.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/gpu/host.h"

namespace lapidary::gpu {

Task<Result<std::vector<std::byte>>> read_source(uint32_t source, uint64_t most,
                                                 std::string_view what,
                                                 std::function<bool()> cancelled) {
  constexpr uint64_t kReadBytes = 8 << 20;  // that one read asks for
  const double size = host_source_size(source);
  if (!(size >= 0 && size <= static_cast<double>(most))) {
    co_return fail(ErrorCode::kUnsupported,
                   cat(what, " has ", size, " bytes; at most ", most, " are read"));
  }
  std::vector<std::byte> bytes(static_cast<size_t>(size));
  for (size_t at = 0; at < bytes.size(); at += kReadBytes) {
    if (cancelled()) co_return fail(ErrorCode::kCancelled, "cancelled");
    const auto count = static_cast<uint32_t>(std::min<uint64_t>(kReadBytes, bytes.size() - at));
    CO_TRY_VOID(co_await HostCall([&](uint32_t ticket) {
      host_source_read(source, static_cast<double>(at), bytes.data() + at, count, ticket);
    }));
  }
  co_return bytes;
}

}  // namespace lapidary::gpu
