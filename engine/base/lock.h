// Lets one coroutine in at a time, in the order of their coming.
#pragma once

#include <coroutine>
#include <deque>
#include <utility>

namespace lapidary {

class Lock {
 public:
  Lock() = default;
  Lock(const Lock&) = delete;

  // Held until it goes out of scope; then the next one goes on at once.
  class Held {
   public:
    explicit Held(Lock& lock) : lock_(&lock) {}
    Held(Held&& other) noexcept : lock_(std::exchange(other.lock_, nullptr)) {}
    ~Held() {
      if (lock_ != nullptr) lock_->leave();
    }

   private:
    Lock* lock_;
  };

  // const Lock::Held held = co_await lock.enter();
  auto enter() {
    struct Awaiter {
      Lock& lock;
      bool await_ready() const { return !std::exchange(lock.taken_, true); }
      void await_suspend(std::coroutine_handle<> handle) const { lock.waiting_.push_back(handle); }
      Held await_resume() const { return Held(lock); }
    };
    return Awaiter{*this};
  }

 private:
  void leave() {
    if (waiting_.empty()) {
      taken_ = false;
      return;
    }
    const std::coroutine_handle<> next = waiting_.front();
    waiting_.pop_front();
    next.resume();
  }

  bool taken_ = false;
  std::deque<std::coroutine_handle<>> waiting_;
};

}  // namespace lapidary
