#include "engine/base/json.h"

#include <cstdint>
#include <vector>

#include "engine/base/text.h"

namespace lapidary {
namespace {

// An object that keeps its order finds a key by looking at all those before it. So many looks in
// one text: an object of 8,192 members has as many, and they take a fraction of a second.
constexpr uint64_t kMaxLooks = uint64_t{8192} * 8192 / 2;

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view what, int max_depth) {
  bool too_deep = false;
  bool too_wide = false;
  uint64_t looks = 0;
  // Of the open objects, by their depth.
  std::vector<uint64_t> members(static_cast<size_t>(max_depth) + 2);
  const auto callback = [&](int depth, Json::parse_event_t event, Json&) {
    if (depth > max_depth) too_deep = true;
    if (too_deep || too_wide) return false;
    const auto d = static_cast<size_t>(depth);
    if (event == Json::parse_event_t::object_start) members[d + 1] = 0;
    if (event == Json::parse_event_t::key) looks += members[d]++;
    too_wide = looks > kMaxLooks;
    return !too_wide;
  };
  Json value = Json::parse(text, callback, /*allow_exceptions=*/false);
  if (too_deep)
    return fail(ErrorCode::kInvalidFormat, cat(what, ": JSON nested deeper than ", max_depth));
  if (too_wide) return fail(ErrorCode::kInvalidFormat, cat(what, ": JSON with too many members"));
  if (value.is_discarded()) return fail(ErrorCode::kInvalidFormat, cat(what, ": not valid JSON"));
  return value;
}

std::string dump_json(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const Json* json_member(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

}  // namespace lapidary
