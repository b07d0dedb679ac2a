// The part of the decoder that reads and writes what the KV cache holds, for snapshots.
#include <algorithm>

#include "engine/model/decoder.h"

namespace lapidary::model {
namespace {

// Slots side by side: bytes at `cache` of the buffer are those at `rows` of the caller's.
struct Stretch {
  uint64_t cache;
  uint64_t rows;
  uint64_t bytes;
};

// Where `bytes` of rows from `position` on lie: a ring has its end in the middle.
std::vector<Stretch> stretches(const KvRows& rows, uint32_t sequence, uint32_t position,
                               uint64_t bytes) {
  std::vector<Stretch> out;
  for (uint64_t done = 0; done < bytes; done += out.back().bytes) {
    const uint32_t slot = (position + static_cast<uint32_t>(done / rows.bytes)) % rows.slots;
    out.push_back({.cache = (uint64_t{sequence} * rows.slots + slot) * rows.bytes,
                   .rows = done,
                   .bytes = std::min(bytes - done, uint64_t{rows.slots - slot} * rows.bytes)});
  }
  return out;
}

}  // namespace

std::vector<KvRows> Decoder::kv_rows() const {
  std::vector<KvRows> out;
  for (uint32_t l = 0; l < config_.layers.size(); ++l) {
    const LayerConfig& layer = config_.layers[l];
    if (layer.shares_kv) continue;
    const kernels::AttentionSpec spec = attention_spec(l);
    const uint64_t bytes = kernels::kv_cache_bytes(spec) / spec.sequences / spec.slots;
    out.push_back({.layer = l,
                   .sliding = layer.sliding,
                   .slots = spec.slots,
                   .bytes = static_cast<uint32_t>(bytes)});
  }
  return out;
}

Task<Status> Decoder::read_kv(KvRows rows, bool values, uint32_t sequence, uint32_t position,
                              std::span<std::byte> out) const {
  const gpu::Buffer& cache = values ? v_cache_[rows.layer] : k_cache_[rows.layer];
  for (const Stretch& each : stretches(rows, sequence, position, out.size()))
    CO_TRY_VOID(co_await device_.read(cache, each.cache, out.subspan(each.rows, each.bytes)));
  co_return Status{};
}

void Decoder::write_kv(const KvRows& rows, bool values, uint32_t sequence, uint32_t position,
                       std::span<const std::byte> in) {
  const gpu::Buffer& cache = values ? v_cache_[rows.layer] : k_cache_[rows.layer];
  for (const Stretch& each : stretches(rows, sequence, position, in.size()))
    device_.write(cache, each.cache, in.subspan(each.rows, each.bytes));
}

}  // namespace lapidary::model
