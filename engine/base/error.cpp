#include "engine/base/error.h"

namespace lapidary {

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kOk:
      return "ok";
#define X(name, number, text) \
  case ErrorCode::name:       \
    return text;
      LAPIDARY_ERROR_CODES(X)
#undef X
  }
  return "internal_error";
}

}  // namespace lapidary
