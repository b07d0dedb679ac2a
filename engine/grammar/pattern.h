// Regular expressions: of ECMAScript's what names a regular language and is common in schemas.
#pragma once

#include <string_view>

#include "engine/grammar/notation.h"

namespace lapidary::grammar {

// The characters of a string in which `expression` is found, as JSON Schema reads it (Unicode; not
// anchored unless it says so). Taken: characters, ., classes, \d \w \s and their opposites, groups,
// |, the quantifiers, and ^ and $ at the ends of the whole. kUnsupported: the rest, such as
// look-around and back-references; kInvalidArgument: no regular expression.
Result<uint32_t> pattern(Notation& notation, uint32_t from, std::string_view expression);

}  // namespace lapidary::grammar
