// Stop strings over a stream of text: what may still become a stop string is held back.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lapidary::generate {

class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Appends text and returns what is safe to show. After a match nothing more comes out.
  std::string push(std::string_view text);
  // The rest that was held back, when the reply ends without a match.
  std::string flush();
  // The stop string that was met; empty if none was.
  const std::string& matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string matched_;
};

}  // namespace lapidary::generate
