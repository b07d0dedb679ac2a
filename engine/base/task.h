// Task<T>: a lazy coroutine, awaited once by one parent. Waiting on the host parks the innermost
// frame; the host wakes it through engine/gpu/host.h, with no JSPI, Asyncify or threads.
//
// No symmetric transfer: wasm without tail calls would turn a loop of synchronously finishing
// children into recursion. A child that finishes before it ever parks tells its parent not to
// suspend at all.
#pragma once

#include <coroutine>
#include <cstdlib>
#include <optional>
#include <utility>

namespace lapidary {

template <typename T>
class Task;

namespace task_internal {

struct PromiseBase {
  std::coroutine_handle<> continuation;
  bool finished = false;
  bool parent_suspended = false;

  std::suspend_always initial_suspend() noexcept { return {}; }
  struct FinalAwaiter {
    bool await_ready() const noexcept { return false; }
    template <typename Promise>
    void await_suspend(std::coroutine_handle<Promise> handle) noexcept {
      PromiseBase& promise = handle.promise();
      promise.finished = true;
      // The parent may destroy this frame while it runs: touch nothing after resume().
      if (promise.parent_suspended) promise.continuation.resume();
    }
    void await_resume() const noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::abort(); }
};

template <typename T>
struct Promise : PromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <typename U>
  void return_value(U&& u) {
    value.emplace(std::forward<U>(u));
  }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object();
  void return_void() {}
};

}  // namespace task_internal

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = task_internal::Promise<T>;
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  auto operator co_await() && {
    struct Awaiter {
      std::coroutine_handle<promise_type> child;
      bool await_ready() const { return false; }
      bool await_suspend(std::coroutine_handle<> parent) {
        child.promise().continuation = parent;
        child.resume();
        if (child.promise().finished) return false;
        child.promise().parent_suspended = true;
        return true;
      }
      T await_resume() {
        if constexpr (!std::is_void_v<T>) return std::move(*child.promise().value);
      }
    };
    return Awaiter{handle_};
  }

 private:
  std::coroutine_handle<promise_type> handle_;
};

template <typename T>
Task<T> task_internal::Promise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<Promise>::from_promise(*this));
}
inline Task<void> task_internal::Promise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<Promise>::from_promise(*this));
}

// Runs a task to its end with nobody waiting; its frame frees itself. `task` must report through
// its own means.
inline void spawn(Task<void> task) {
  struct Detached {
    struct promise_type {
      Detached get_return_object() { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() noexcept { std::abort(); }
    };
  };
  [](Task<void> inner) -> Detached { co_await std::move(inner); }(std::move(task));
}

}  // namespace lapidary
