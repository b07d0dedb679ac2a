// The part of a session that saves a sequence as a snapshot and puts one back (snapshot.h).
#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/generate/session.h"

namespace lapidary::generate {
namespace {

// Bytes that are in the heap at once, or one row.
constexpr uint64_t kPiece = 4 << 20;

Task<Status> read_source_at(uint32_t source, uint64_t offset, std::span<std::byte> out) {
  co_return co_await gpu::HostCall([&](uint32_t ticket) {
    gpu::host_source_read(source, static_cast<double>(offset), out.data(),
                          static_cast<uint32_t>(out.size()), ticket);
  });
}

}  // namespace

SnapshotBinding Session::snapshot_binding(std::string model, std::string adapters) const {
  SnapshotBinding out{.model = std::move(model),
                      .adapters = std::move(adapters),
                      .kv_type = decoder_->kv_type(),
                      .context = decoder_->context(),
                      .window = decoder_->window(),
                      .ring_slots = decoder_->ring_slots()};
  for (const model::KvRows& rows : decoder_->kv_rows())
    out.layers.push_back({.sliding = rows.sliding, .row_bytes = rows.bytes});
  return out;
}

uint32_t Session::oldest_position(const Sequence& sequence) const {
  const uint32_t slots = decoder_->ring_slots();
  const uint32_t kept = sequence.high_water > slots ? sequence.high_water - slots : 0;
  return decoder_->window() > 0 ? std::max(kept, sequence.floor) : 0;
}

Result<SavedSession> Session::save(std::string model, uint32_t rewind) {
  TRY_VOID(check_idle());
  const Sequence& sequence = current();
  const auto tokens = static_cast<uint32_t>(sequence.cached.size());
  const uint32_t window = decoder_->window();
  const uint64_t wanted = uint64_t{window} + rewind;
  Snapshot snapshot{.tokens = tokens};
  if (window > 0) {
    snapshot.floor = std::max(oldest_position(sequence),
                              tokens > wanted ? tokens - static_cast<uint32_t>(wanted) : 0u);
  }
  const uint32_t needed = tokens + 1 > window ? tokens + 1 - window : 0;
  if (tokens == 0 || (window > 0 && snapshot.floor > needed)) {
    return fail(ErrorCode::kInvalidArgument,
                "there is nothing to save: the cache holds no prompt that could go on");
  }
  saving_ = {.sequence = current_, .used = sequence.used, .snapshot = snapshot};
  const SnapshotBinding binding = snapshot_binding(std::move(model), sequence.adapters);
  return SavedSession{.header = write_snapshot_header(binding, snapshot),
                      .bytes = snapshot_bytes(binding, snapshot),
                      .tokens = tokens};
}

Task<Result<std::vector<std::byte>>> Session::read_saved() {
  CO_TRY_VOID(check_idle());
  Saving& at = saving_;
  const Sequence& sequence = sequences_[at.sequence];
  if (sequence.used != at.used || sequence.cached.size() != at.snapshot.tokens)
    co_return fail(ErrorCode::kBusy, "the session has gone on since its saving began");
  std::vector<std::byte> piece;
  if (!at.has_tokens) {
    at.has_tokens = true;
    piece.resize(sequence.cached.size() * sizeof(uint32_t));
    std::memcpy(piece.data(), sequence.cached.data(), piece.size());
    co_return piece;
  }
  const std::vector<model::KvRows> layers = decoder_->kv_rows();
  if (at.half == 2 * layers.size()) co_return piece;
  const model::KvRows& rows = layers[at.half / 2];
  at.position = std::max(at.position, rows.sliding ? at.snapshot.floor : 0);
  const uint64_t count = std::min<uint64_t>(at.snapshot.tokens - at.position,
                                            std::max<uint64_t>(kPiece / rows.bytes, 1));
  piece.resize(count * rows.bytes);
  busy_ = true;
  Status status =
      co_await decoder_->read_kv(rows, at.half % 2 == 1, at.sequence, at.position, piece);
  if (status) status = co_await device_.sync();
  busy_ = false;
  CO_TRY_VOID(std::move(status));
  at.position += static_cast<uint32_t>(count);
  if (at.position == at.snapshot.tokens) {
    at.position = 0;
    ++at.half;
  }
  co_return piece;
}

Task<Status> Session::restore_rows(uint32_t source, Snapshot snapshot,
                                   const std::function<bool()>& cancelled) {
  uint64_t offset = uint64_t{snapshot.tokens} * sizeof(uint32_t);
  std::vector<std::byte> piece;
  for (const model::KvRows& rows : decoder_->kv_rows()) {
    for (const bool values : {false, true}) {
      for (uint32_t at = rows.sliding ? snapshot.floor : 0; at < snapshot.tokens;) {
        if (cancelled()) co_return fail(ErrorCode::kCancelled, "the restoring was stopped");
        const auto count = static_cast<uint32_t>(
            std::min<uint64_t>(snapshot.tokens - at, std::max<uint64_t>(kPiece / rows.bytes, 1)));
        piece.resize(uint64_t{count} * rows.bytes);
        CO_TRY_VOID(co_await read_source_at(source, offset, piece));
        decoder_->write_kv(rows, values, current_, at, piece);
        offset += piece.size();
        at += count;
        // Or the GPU's own copies of all pieces gather.
        CO_TRY_VOID(co_await device_.sync());
      }
    }
  }
  co_return Status{};
}

Task<Result<uint32_t>> Session::restore(uint32_t source, std::string header, std::string model,
                                        std::function<bool()> cancelled) {
  CO_TRY_VOID(check_idle());
  const SnapshotBinding binding = snapshot_binding(std::move(model), adapters_);
  CO_TRY(
      const Snapshot snapshot,
      parse_snapshot_header(header, binding, static_cast<uint64_t>(gpu::host_source_size(source))));
  std::vector<uint32_t> tokens(snapshot.tokens);
  busy_ = true;
  Status status = co_await read_source_at(source, 0, std::as_writable_bytes(std::span(tokens)));
  if (status && std::ranges::any_of(
                    tokens, [&](uint32_t id) { return id >= vocab_ && id < model::kSoftToken; })) {
    status = fail(ErrorCode::kInvalidArgument, "the snapshot has tokens outside the vocabulary");
  }
  if (status) {
    // Only now the cache is touched; until all of it is there, the sequence holds nothing.
    // A conversation that only begins like it stays.
    const auto place = std::ranges::min_element(sequences_, {}, [&](const Sequence& sequence) {
      const std::vector<uint32_t>& cached = sequence.cached;
      const bool covered = sequence.adapters == adapters_ && cached.size() <= tokens.size() &&
                           std::equal(cached.begin(), cached.end(), tokens.begin());
      return std::pair(!covered, sequence.used);
    });
    current_ = static_cast<uint32_t>(place - sequences_.begin());
    decoder_->use_sequence(current_);
    ++clock_;
    current() = {.adapters = adapters_, .used = clock_};
    status = co_await restore_rows(source, snapshot, cancelled);
    if (status) {
      current().cached = std::move(tokens);
      current().high_water = snapshot.tokens;
      current().floor = snapshot.floor;
    } else if (status.error().code != ErrorCode::kCancelled) {
      forget_all();
    }
  }
  busy_ = false;
  CO_TRY_VOID(std::move(status));
  co_return snapshot.tokens;
}

}  // namespace lapidary::generate
