#include "engine/generate/snapshot.h"

#include <algorithm>

#include "engine/base/text.h"

namespace lapidary::generate {
namespace {

// Of the layout: raised whenever the same bytes would mean something else.
constexpr uint32_t kVersion = 1;
constexpr size_t kMaxHeaderBytes = 1 << 20;

Json layout_of(const SnapshotBinding& binding) {
  Json layers = Json::array();
  for (const KvLayer& layer : binding.layers)
    layers.push_back({{"sliding", layer.sliding}, {"rowBytes", layer.row_bytes}});
  return {{"kvType", kernels::kv_type_name(binding.kv_type)},
          {"context", binding.context},
          {"window", binding.window},
          {"ringSlots", binding.ring_slots},
          {"layers", std::move(layers)}};
}

Result<uint32_t> read_count(const Json& json, std::string_view key, uint32_t most) {
  const Json* value = json_member(json, key);
  if (value == nullptr || !value->is_number_unsigned() || value->get<uint64_t>() > most) {
    return fail(ErrorCode::kInvalidFormat,
                cat("the snapshot's ", key, " must be a number up to ", most));
  }
  return value->get<uint32_t>();
}

Status check_fits(const Json& json, const SnapshotBinding& binding) {
  const auto is = [&](std::string_view key, const Json& wanted) {
    const Json* value = json_member(json, key);
    return value != nullptr && *value == wanted;
  };
  if (!is("model", binding.model))
    return fail(ErrorCode::kIntegrity, "the snapshot is of another model");
  if (!is("adapters", binding.adapters)) {
    return fail(ErrorCode::kIntegrity,
                "the snapshot was made under other adapters, or other scales of them");
  }
  if (!is("layout", layout_of(binding))) {
    return fail(ErrorCode::kIntegrity,
                "the snapshot's cache has another layout: the model was loaded with another "
                "context, type of keys and values, or batch size");
  }
  return {};
}

}  // namespace

Result<uint32_t> snapshot_rewind(const Json& json) {
  const Json* value = json_member(json, "rewind");
  if (value == nullptr || value->is_null()) return 0;
  if (!value->is_number_unsigned() || value->get<uint64_t>() > UINT32_MAX)
    return fail(ErrorCode::kInvalidArgument, "rewind must be a number of tokens");
  return value->get<uint32_t>();
}

uint64_t snapshot_bytes(const SnapshotBinding& binding, const Snapshot& snapshot) {
  uint64_t bytes = uint64_t{snapshot.tokens} * sizeof(uint32_t);
  for (const KvLayer& layer : binding.layers) {
    const uint32_t rows = snapshot.tokens - (layer.sliding ? snapshot.floor : 0);
    bytes += 2 * uint64_t{rows} * layer.row_bytes;
  }
  return bytes;
}

std::string write_snapshot_header(const SnapshotBinding& binding, const Snapshot& snapshot) {
  return dump_json({{"version", kVersion},
                    {"model", binding.model},
                    {"adapters", binding.adapters},
                    {"layout", layout_of(binding)},
                    {"tokens", snapshot.tokens},
                    {"floor", snapshot.floor}});
}

Result<Snapshot> parse_snapshot_header(std::string_view text, const SnapshotBinding& binding,
                                       uint64_t payload_bytes) {
  if (text.size() > kMaxHeaderBytes)
    return fail(ErrorCode::kInvalidFormat, "the snapshot's header is too long");
  TRY(const Json json, parse_json(text, "snapshot header"));
  TRY(const uint32_t version, read_count(json, "version", UINT32_MAX));
  if (version != kVersion) {
    return fail(ErrorCode::kUnsupported,
                cat("the snapshot has version ", version, "; this engine reads ", kVersion));
  }
  TRY_VOID(check_fits(json, binding));
  Snapshot out;
  TRY(out.tokens, read_count(json, "tokens", binding.context));
  TRY(out.floor, read_count(json, "floor", out.tokens));
  // The window before the next position is there, and no more than a ring keeps.
  const uint32_t next = out.tokens + 1;
  const uint32_t oldest = out.tokens > binding.ring_slots ? out.tokens - binding.ring_slots : 0;
  const uint32_t needed = next > binding.window ? next - binding.window : 0;
  if (out.tokens == 0 || (binding.window == 0 && out.floor != 0) ||
      (binding.window > 0 && (out.floor < oldest || out.floor > needed))) {
    return fail(ErrorCode::kInvalidFormat,
                cat("a snapshot of ", out.tokens, " tokens cannot begin at ", out.floor));
  }
  if (snapshot_bytes(binding, out) != payload_bytes) {
    return fail(ErrorCode::kInvalidFormat,
                cat("the snapshot has ", payload_bytes, " bytes of ", out.tokens,
                    " tokens instead of ", snapshot_bytes(binding, out)));
  }
  if (write_snapshot_header(binding, out) != text)
    return fail(ErrorCode::kInvalidFormat, "the snapshot's header is not as it was written");
  return out;
}

}  // namespace lapidary::generate
