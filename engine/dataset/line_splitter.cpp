#include "engine/dataset/line_splitter.h"

namespace lapidary::dataset {

Status LineSplitter::append(std::string_view bytes, const OnLine& on_line) {
  if (!open_) {
    open_ = true;
    ++lines_;
  }
  if (skipping_) return {};
  if (bytes.size() > max_line_bytes_ - line_.size()) {
    skipping_ = true;
    line_.clear();
    return on_line(lines_, std::nullopt);
  }
  line_.append(bytes);
  return {};
}

Status LineSplitter::end_line(const OnLine& on_line) {
  const bool whole = !skipping_;
  open_ = skipping_ = false;
  std::string line;
  line.swap(line_);
  if (!whole) return {};
  std::string_view text = line;
  if (text.ends_with('\r')) text.remove_suffix(1);
  const Status status = on_line(lines_, text);
  line.clear();
  line_.swap(line);  // its memory serves the next line
  return status;
}

Status LineSplitter::push(std::string_view bytes, const OnLine& on_line) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    TRY_VOID(append(bytes.substr(0, end), on_line));
    if (end == std::string_view::npos) return {};
    bytes.remove_prefix(end + 1);
    TRY_VOID(end_line(on_line));
  }
  return {};
}

Status LineSplitter::finish(const OnLine& on_line) { return open_ ? end_line(on_line) : Status(); }

}  // namespace lapidary::dataset
