// Snapshots of a session: one sequence's tokens, keys and values as bytes, to go on from later
// without running them again. A header says what they fit; anything else is refused by it.
//
// Payload: the ids of the tokens, u32; then of every layer that has K and V of its own, the rows of
// K, then those of V, each as the cache holds it. Of a sliding layer only the rows of positions
// from `floor` on are there.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/kernels/attention.h"

namespace lapidary::generate {

// How the cache keeps a layer.
struct KvLayer {
  bool sliding = false;
  uint32_t row_bytes = 0;  // of K at one position; the same of V
};

// What a snapshot must fit.
struct SnapshotBinding {
  std::string model;     // names the file of the weights
  std::string adapters;  // those that were on, with their scales
  kernels::KvType kv_type = kernels::KvType::kF16;
  uint32_t context = 0;
  uint32_t window = 0;      // positions that sliding layers see; 0: none slides
  uint32_t ring_slots = 0;  // that they keep
  std::vector<KvLayer> layers;
};

// What it holds.
struct Snapshot {
  uint32_t tokens = 0;
  uint32_t floor = 0;  // sliding layers hold positions from here on
};

uint64_t snapshot_bytes(const SnapshotBinding& binding, const Snapshot& snapshot);
// JSON, a function of both.
std::string write_snapshot_header(const SnapshotBinding& binding, const Snapshot& snapshot);
// kInvalidFormat: no header, or not of a payload of that size; kUnsupported: another version;
// kIntegrity: of another model, other adapters, or another layout of the cache. What is accepted is
// what write_snapshot_header writes, to the letter.
Result<Snapshot> parse_snapshot_header(std::string_view text, const SnapshotBinding& binding,
                                       uint64_t payload_bytes);

// The member `rewind`, or 0; kInvalidArgument.
Result<uint32_t> snapshot_rewind(const Json& json);

}  // namespace lapidary::generate
