// The table of frames parked on the host.
#include "engine/gpu/host.h"

#include <vector>

namespace lapidary::gpu {
namespace {

struct Slots {
  std::vector<HostCallBase*> calls;  // ticket - 1 -> the parked call, nullptr when free
  std::vector<uint32_t> free;
};
Slots& slots() {
  static Slots instance;
  return instance;
}

}  // namespace

uint32_t HostCallBase::park(std::coroutine_handle<> handle) {
  handle_ = handle;
  Slots& table = slots();
  if (table.free.empty()) {
    table.calls.push_back(this);
    ticket_ = static_cast<uint32_t>(table.calls.size());
    return ticket_;
  }
  ticket_ = table.free.back();
  table.free.pop_back();
  table.calls[ticket_ - 1] = this;
  return ticket_;
}

void HostCallBase::release() {
  slots().calls[ticket_ - 1] = nullptr;
  slots().free.push_back(ticket_);
  done_ = true;
}

bool HostCallBase::resume(uint32_t ticket, ErrorCode code, std::string message) {
  Slots& table = slots();
  if (ticket == 0 || ticket > table.calls.size() || table.calls[ticket - 1] == nullptr)
    return false;
  HostCallBase* call = std::exchange(table.calls[ticket - 1], nullptr);
  table.free.push_back(ticket);
  call->code_ = code;
  call->message_ = std::move(message);
  call->done_ = true;
  if (call->handle_) std::exchange(call->handle_, nullptr).resume();
  return true;
}

uint32_t HostCallBase::in_flight() {
  return static_cast<uint32_t>(slots().calls.size() - slots().free.size());
}

}  // namespace lapidary::gpu
