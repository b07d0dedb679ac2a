// JSON, by nlohmann/json with exceptions off. Objects keep their order: templates render keys as
// they came. With JSON_NOEXCEPTION a wrong access aborts: check the type first, or use the helpers
// here.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/base/error.h"

namespace lapidary {

using Json = nlohmann::ordered_json;

// Parses `text`; kInvalidFormat with `what` in the message. Nesting deeper than `max_depth` is
// refused, since walkers of the result recurse, and so are objects so wide (more than 8,192
// members, or several that come near it) that building them would take seconds.
Result<Json> parse_json(std::string_view text, std::string_view what, int max_depth = 64);

// Serialises; broken UTF-8 inside strings becomes U+FFFD rather than an error.
std::string dump_json(const Json& value);

// The member `key` if `object` is an object and has it, else nullptr.
const Json* json_member(const Json& object, std::string_view key);

}  // namespace lapidary
