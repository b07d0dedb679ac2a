// Where a text stands in an automaton's language: every (state, stack of callers) that the bytes so
// far may have led to. Sets of them are numbered as they are met and their steps remembered, so
// that most bytes cost one look-up.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/grammar/automaton.h"

namespace lapidary::grammar {

class Matcher {
 public:
  explicit Matcher(std::shared_ptr<const Automaton> automaton);

  // Whether the text may go on with these bytes (and then, somehow, come to an end). bytes: not
  // empty.
  bool allows(std::string_view bytes);
  // Goes on with them; false, and nothing changes, where they are not allowed.
  bool accept(std::string_view bytes);
  // Whether the text may end here.
  bool complete() const { return sets_[current_].complete; }
  // Whether it must.
  bool finished() const { return complete() && !sets_[current_].reads; }

 private:
  // state << 32 | frame
  using Place = uint64_t;
  struct Frame {
    uint32_t back = 0;    // the state to go on from
    uint32_t parent = 0;  // the caller's own frame
    uint32_t depth = 0;   // frames up to the root, 0 for the root itself
  };
  struct Set {
    const std::vector<Place>* places = nullptr;  // those that read a byte; a key of numbers_
    bool complete = false;
    bool reads = false;
    std::unique_ptr<std::array<uint32_t, 256>> next;  // by byte; kUnknown until asked for
  };

  // Places that one close() has met: open addressing, emptied by a new round.
  class Seen {
   public:
    void clear();
    // false: it is there already, or there is no room.
    bool insert(Place place);

   private:
    struct Slot {
      Place place = 0;
      uint32_t round = 0;
    };
    std::vector<Slot> slots_;
    size_t size_ = 0;
    uint32_t round_ = 0;
  };

  void reset();
  uint32_t step(uint32_t set, uint8_t byte);
  uint32_t frame(uint32_t back, uint32_t parent);
  // The set of what `places` lead to without reading.
  uint32_t close(std::vector<Place> places);
  uint32_t walk(std::string_view bytes);
  void trim();

  std::shared_ptr<const Automaton> automaton_;
  std::vector<Frame> frames_;
  std::map<uint64_t, uint32_t> frame_numbers_;  // by back << 32 | parent
  std::vector<Set> sets_;
  std::map<std::vector<Place>, uint32_t> numbers_;
  uint32_t current_ = 0;
  Seen seen_;
};

}  // namespace lapidary::grammar
