// A byte buffer that grows with realloc: at the top of the wasm heap that extends it in place, so
// reading a header of 20 MB costs 20 MB, where a vector would hold the old and the new copy at
// once. Reports exhaustion, never aborts.
#pragma once

#include <cstdlib>
#include <utility>

#include "engine/base/bytes.h"

namespace lapidary::gguf {

class GrowingBytes {
 public:
  GrowingBytes() = default;
  GrowingBytes(GrowingBytes&& other) noexcept { swap(other); }
  GrowingBytes& operator=(GrowingBytes&& other) noexcept {
    swap(other);
    return *this;
  }
  ~GrowingBytes() { std::free(data_); }

  size_t size() const { return size_; }
  Bytes view() const { return {data_, size_}; }

  // Makes room for `capacity` bytes in all; false if the memory is not there. Invalidates views.
  bool reserve(size_t capacity) { return capacity <= capacity_ || reallocate(capacity); }
  // The room past size(), which set_size() then claims.
  std::span<std::byte> room() { return {data_ + size_, capacity_ - size_}; }
  // At most the capacity.
  void set_size(size_t size) { size_ = size; }
  // Gives back what lies past `size`, at most size(). Invalidates views.
  void shrink(size_t size) {
    size_ = size;
    if (size > 0) reallocate(size);
  }

 private:
  bool reallocate(size_t capacity) {
    void* data = std::realloc(data_, capacity);
    if (!data) return false;
    data_ = static_cast<std::byte*>(data);
    capacity_ = capacity;
    return true;
  }
  void swap(GrowingBytes& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace lapidary::gguf
