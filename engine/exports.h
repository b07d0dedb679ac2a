// What the functions that lapidary.wasm exports share. They stand in exports*.cpp; names, arguments
// and results are described in docs/wasm-boundary.md, and packages/lapidary/src/engine.ts is the
// other side.
//
// A function that answers at once returns an error number and leaves its result (or the error's
// message) at lap_result_data(). One that takes a call number finishes through host_complete.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/generate/text_model.h"

#define LAPIDARY_EXPORT(name) extern "C" __attribute__((export_name(#name)))

namespace lapidary {

// Things that the host names by handles from 1 on.
template <typename T>
class Table {
 public:
  // `what`: begins the message about a handle that names nothing.
  explicit Table(std::string_view what) : what_(what) {}
  uint32_t add(std::shared_ptr<T> entry) {
    entries_.push_back(std::move(entry));
    return static_cast<uint32_t>(entries_.size());
  }
  Result<std::shared_ptr<T>> find(uint32_t handle) const {
    if (handle == 0 || handle > entries_.size() || entries_[handle - 1] == nullptr)
      return fail(ErrorCode::kInvalidArgument, cat(what_, " has been closed"));
    return entries_[handle - 1];
  }
  void close(uint32_t handle) {
    if (find(handle)) entries_[handle - 1] = nullptr;
  }

 private:
  std::string_view what_;
  std::vector<std::shared_ptr<T>> entries_;
};

Table<generate::TextModel>& models();

// What a function answers at once.
uint32_t answer(std::string bytes);
uint32_t answer(const Error& error);

void complete(uint32_t call, const Result<std::string>& outcome);

// Runs a coroutine that makes a call's result and reports how it ended.
template <typename Work>
void start(uint32_t call, Work work) {
  spawn([](uint32_t id, Work job) -> Task<void> {
    const Result<std::string> outcome = co_await job();
    complete(id, outcome);
  }(call, std::move(work)));
}

generate::Cancelled cancel_check(uint32_t call);
generate::Emit emitter(uint32_t call);

// A text, or an empty one.
std::string text_member(const Json& json, std::string_view key);

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace lapidary
