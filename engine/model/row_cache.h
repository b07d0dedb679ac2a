// The rows of a table that were used last, as they lie in the file, up to a number of bytes.
#pragma once

#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/base/bytes.h"

namespace lapidary::model {

class RowCache {
 public:
  RowCache(uint64_t row_bytes, uint64_t max_bytes)
      : most_(static_cast<size_t>(max_bytes / row_bytes)) {}

  // Nothing where the row is not here; valid until the next put().
  Bytes find(uint32_t row) {
    const auto found = places_.find(row);
    if (found == places_.end()) return {};
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->bytes;
  }

  // Takes the place of the row that was longest without use.
  void put(uint32_t row, std::vector<std::byte> bytes) {
    if (most_ == 0) return;
    if (const auto found = places_.find(row); found != places_.end()) {
      entries_.erase(found->second);
      places_.erase(found);
    } else if (entries_.size() == most_) {
      places_.erase(entries_.back().row);
      entries_.pop_back();
    }
    entries_.push_front({row, std::move(bytes)});
    places_[row] = entries_.begin();
  }

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint32_t row;
    std::vector<std::byte> bytes;
  };
  size_t most_;
  std::list<Entry> entries_;  // the one used last comes first
  std::unordered_map<uint32_t, std::list<Entry>::iterator> places_;
};

}  // namespace lapidary::model
