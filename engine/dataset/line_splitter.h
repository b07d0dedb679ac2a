// Bytes that arrive in pieces, cut into lines; memory is bounded whatever comes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/error.h"

namespace lapidary::dataset {

class LineSplitter {
 public:
  // number: from 1. line: without its end ("\n" or "\r\n"), valid during the call; nothing for one
  // longer than the limit, reported where it passes it. An error ends the push.
  using OnLine = std::function<Status(uint64_t number, std::optional<std::string_view> line)>;

  explicit LineSplitter(size_t max_line_bytes) : max_line_bytes_(max_line_bytes) {}

  Status push(std::string_view bytes, const OnLine& on_line);
  // The last line, if no newline ends it.
  Status finish(const OnLine& on_line);
  uint64_t lines() const { return lines_; }

 private:
  Status append(std::string_view bytes, const OnLine& on_line);
  Status end_line(const OnLine& on_line);

  size_t max_line_bytes_;
  std::string line_;
  bool open_ = false;      // a line has begun
  bool skipping_ = false;  // its rest is dropped
  uint64_t lines_ = 0;     // the open one included
};

}  // namespace lapidary::dataset
