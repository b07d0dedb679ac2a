#include "engine/model/row_source.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/gguf/codec.h"

namespace lapidary::model {
namespace {

// Rows that are on their way at once.
constexpr size_t kReadsAtOnce = 32;
// Text repeats its tokens: this holds about a thousand of E2B's rows, as they lie in the file.
constexpr uint64_t kCacheBytes = 8 << 20;

// A token and the places where it stands among those asked for.
struct Wanted {
  uint32_t token;
  std::vector<uint32_t> places;
};

// Each token once, in the file's order, so that a disk is read from front to back.
std::vector<Wanted> distinct(std::span<const uint32_t> tokens) {
  std::vector<std::pair<uint32_t, uint32_t>> sorted;
  for (uint32_t i = 0; i < tokens.size(); ++i) sorted.emplace_back(tokens[i], i);
  std::ranges::sort(sorted);
  std::vector<Wanted> out;
  for (const auto& [token, place] : sorted) {
    if (out.empty() || out.back().token != token) out.push_back({token, {}});
    out.back().places.push_back(place);
  }
  return out;
}

}  // namespace

RowSource::RowSource(const SourceTable& table, float scale)
    : table_(table), scale_(scale), cache_(table.row_bytes, kCacheBytes) {}

Task<Status> RowSource::gather(const gpu::Device& device, std::span<const uint32_t> tokens,
                               const gpu::Buffer& out) {
  std::vector<float> values(table_.cols);
  const auto deliver = [&](const Wanted& wanted, Bytes row) -> Status {
    TRY_VOID(gguf::decode_block_row(table_.type, row, values));
    for (float& value : values) value *= scale_;
    const auto bytes = std::as_bytes(std::span(values));
    for (const uint32_t place : wanted.places)
      device.write(out, uint64_t{place} * bytes.size(), bytes);
    return {};
  };

  std::vector<Wanted> missing;
  for (Wanted& wanted : distinct(tokens)) {
    if (wanted.token >= table_.rows) {
      co_return fail(ErrorCode::kInvalidArgument,
                     cat("token ", wanted.token, " has no row in the per-layer embedding"));
    }
    const Bytes row = cache_.find(wanted.token);
    if (row.empty()) {
      missing.push_back(std::move(wanted));
    } else {
      CO_TRY_VOID(deliver(wanted, row));
    }
  }

  struct Read {
    gpu::HostFuture future;
    std::vector<std::byte> bytes;
  };
  std::vector<Read> reads(std::min(kReadsAtOnce, missing.size()));
  const auto start = [&](size_t i) {
    Read& read = reads[i % reads.size()];
    read.bytes.resize(static_cast<size_t>(table_.row_bytes));
    const uint64_t offset = table_.offset + missing[i].token * table_.row_bytes;
    gpu::host_source_read(table_.source, static_cast<double>(offset), read.bytes.data(),
                          static_cast<uint32_t>(read.bytes.size()), read.future.start());
  };
  Status status;
  size_t started = 0;
  // After a failure what is under way is awaited all the same: the host still writes to its bytes.
  for (size_t i = 0; i < missing.size() && (status || i < started); ++i) {
    while (status && started < std::min(missing.size(), i + reads.size())) start(started++);
    Read& read = reads[i % reads.size()];
    Status arrived = co_await read.future;
    if (!status) continue;
    if (arrived) arrived = deliver(missing[i], read.bytes);
    if (arrived) {
      cache_.put(missing[i].token, std::move(read.bytes));
    } else {
      status = fail(arrived.error().code, cat("per-layer embedding of token ", missing[i].token,
                                              ": ", arrived.error().message));
    }
  }
  co_return status;
}

}  // namespace lapidary::model
