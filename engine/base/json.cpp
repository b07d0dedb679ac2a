#include "engine/base/json.h"

#include "engine/base/text.h"

namespace lapidary {

Result<Json> parse_json(std::string_view text, std::string_view what, int max_depth) {
  bool too_deep = false;
  const auto callback = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > max_depth) too_deep = true;
    return !too_deep;
  };
  Json value = Json::parse(text, callback, /*allow_exceptions=*/false);
  if (too_deep)
    return fail(ErrorCode::kInvalidFormat, cat(what, ": JSON nested deeper than ", max_depth));
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
