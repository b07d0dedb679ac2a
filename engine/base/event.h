// An event that one coroutine waits for and others tell it of, with no host between them.
#pragma once

#include <coroutine>
#include <utility>

namespace lapidary {

class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;

  // Wakes who waits, who runs at once, up to where it waits again; else the next wait ends at once.
  void notify() {
    if (waiter_) {
      std::exchange(waiter_, nullptr).resume();
    } else {
      notified_ = true;
    }
  }

  auto operator co_await() {
    struct Awaiter {
      Event& event;
      bool await_ready() const { return std::exchange(event.notified_, false); }
      void await_suspend(std::coroutine_handle<> handle) const { event.waiter_ = handle; }
      void await_resume() const {}
    };
    return Awaiter{*this};
  }

 private:
  std::coroutine_handle<> waiter_;
  bool notified_ = false;
};

}  // namespace lapidary
