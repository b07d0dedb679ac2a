// Fuzzes headers of snapshots: no crash, and what is accepted is what would be written and what
// the payload holds.
#include <cstdlib>
#include <cstring>

#include "engine/generate/snapshot.h"

using namespace lapidary;
using namespace lapidary::generate;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const SnapshotBinding binding{.model = "m",
                                .adapters = "",
                                .kv_type = kernels::KvType::kF16,
                                .context = 512,
                                .window = 64,
                                .ring_slots = 256,
                                .layers = {{true, 128}, {false, 256}}};
  uint16_t bytes = 0;
  if (size < sizeof bytes) return 0;
  std::memcpy(&bytes, data, sizeof bytes);
  const std::string_view text(reinterpret_cast<const char*>(data) + sizeof bytes,
                              size - sizeof bytes);
  const auto parsed = parse_snapshot_header(text, binding, bytes);
  if (!parsed) return 0;
  if (parsed->tokens == 0 || parsed->tokens > binding.context || parsed->floor > parsed->tokens)
    std::abort();
  if (snapshot_bytes(binding, *parsed) != bytes) std::abort();
  if (write_snapshot_header(binding, *parsed) != text) std::abort();
  return 0;
}
