// Errors as values: one table of codes, mirrored by the TypeScript package as classes with a stable
// `code`.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace lapidary {

// name, number, the stable string that users see as `error.code`. Numbers cross the wasm boundary:
// append only.
#define LAPIDARY_ERROR_CODES(X)                                                            \
  X(kInvalidArgument, 1, "invalid_argument")  /* a caller's value is unusable */           \
  X(kInvalidFormat, 2, "invalid_format")      /* a file or message breaks its format */    \
  X(kUnsupported, 3, "unsupported")           /* well-formed, but not something we do */   \
  X(kNotFound, 4, "not_found")                /* a model, tensor or file is missing */     \
  X(kTruncated, 5, "truncated")               /* fewer bytes than were promised */         \
  X(kIo, 6, "io_error")                       /* a source failed to deliver bytes */       \
  X(kOutOfMemory, 7, "out_of_memory")         /* wasm heap or GPU memory */                \
  X(kNoAdapter, 8, "no_adapter")              /* WebGPU is absent or offers no adapter */  \
  X(kDeviceLost, 9, "device_lost")            /* the GPU went away */                      \
  X(kGpu, 10, "gpu_error")                    /* validation or internal error of WebGPU */ \
  X(kContextOverflow, 11, "context_overflow") /* prompt or reply exceeds the context */    \
  X(kCancelled, 12, "cancelled")              /* the caller asked to stop */               \
  X(kSelfTest, 13, "self_test_failed")        /* no kernel variant answers rightly here */ \
  X(kBusy, 14, "busy")                        /* the session already runs a request */     \
  X(kIntegrity, 15, "integrity_error")        /* a digest does not match */                \
  X(kInternal, 16, "internal_error")          /* a defect of ours */                       \
  X(kPortInUse, 17, "port_in_use")            /* another program listens there */          \
  X(kQuotaExceeded, 18, "quota_exceeded")     /* no room in storage for what comes */

enum class ErrorCode : uint32_t {
  kOk = 0,
#define X(name, number, text) name = number,
  LAPIDARY_ERROR_CODES(X)
#undef X
};

// The stable string of a code; "ok" for kOk, "internal_error" for a number outside the table.
std::string_view error_code_name(ErrorCode code);

// A message says what was wrong, where, and what to do about it.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

inline std::unexpected<Error> fail(ErrorCode code, std::string message) {
  return std::unexpected<Error>(Error{code, std::move(message)});
}

#define LAPIDARY_CONCAT_(a, b) a##b
#define LAPIDARY_CONCAT(a, b) LAPIDARY_CONCAT_(a, b)

// TRY(auto x, expr): unwraps a Result or returns its error. TRY_VOID(expr): the same without a
// value. CO_TRY / CO_TRY_VOID do so inside a coroutine.
#define LAPIDARY_TRY_IMPL(ret, tmp, decl, ...)                              \
  auto tmp = (__VA_ARGS__);                                                 \
  if (!tmp) ret std::unexpected<::lapidary::Error>(std::move(tmp).error()); \
  decl = std::move(*tmp)
#define TRY(decl, ...) \
  LAPIDARY_TRY_IMPL(return, LAPIDARY_CONCAT(try_, __COUNTER__), decl, __VA_ARGS__)
#define CO_TRY(decl, ...) \
  LAPIDARY_TRY_IMPL(co_return, LAPIDARY_CONCAT(try_, __COUNTER__), decl, __VA_ARGS__)
#define TRY_VOID(...)                                                                          \
  do {                                                                                         \
    auto try_status = (__VA_ARGS__);                                                           \
    if (!try_status) return std::unexpected<::lapidary::Error>(std::move(try_status).error()); \
  } while (false)
#define CO_TRY_VOID(...)                                                                          \
  do {                                                                                            \
    auto try_status = (__VA_ARGS__);                                                              \
    if (!try_status) co_return std::unexpected<::lapidary::Error>(std::move(try_status).error()); \
  } while (false)

}  // namespace lapidary
