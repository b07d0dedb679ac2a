#include "engine/grammar/matcher.h"

#include <algorithm>

namespace lapidary::grammar {
namespace {

constexpr uint32_t kUnknown = UINT32_MAX;
constexpr uint32_t kDead = 0;  // the set of no places
constexpr uint32_t kRootFrame = 0;
// In a set's places: the text may end here.
constexpr uint64_t kComplete = UINT64_MAX;

// Ambiguous schemas could make sets without end. What goes beyond these is left out: the text then
// has fewer ways to go on, all of them right.
constexpr size_t kMaxPlaces = 1024;
constexpr size_t kMaxVisited = 8 * kMaxPlaces;
constexpr size_t kMaxSets = 4096;
constexpr size_t kMaxFrames = 1 << 17;

}  // namespace

void Matcher::Seen::clear() {
  slots_.resize(2 * kMaxVisited);
  size_ = 0;
  ++round_;
}

bool Matcher::Seen::insert(Place place) {
  if (size_ >= kMaxVisited) return false;
  // Fibonacci hashing (Knuth, TAOCP 6.4).
  size_t at = (place * 0x9E3779B97F4A7C15u) >> 32 & (slots_.size() - 1);
  for (; slots_[at].round == round_; at = (at + 1) & (slots_.size() - 1))
    if (slots_[at].place == place) return false;
  slots_[at] = {place, round_};
  ++size_;
  return true;
}

Matcher::Matcher(std::shared_ptr<const Automaton> automaton) : automaton_(std::move(automaton)) {
  reset();
  current_ = close({Place{automaton_->entry(Automaton::kRoot)} << 32 | kRootFrame});
}

void Matcher::reset() {
  frames_.assign(1, {});
  frame_numbers_.clear();
  sets_.clear();
  numbers_.clear();
  const auto dead = numbers_.emplace(std::vector<Place>{}, kDead).first;
  sets_.push_back({.places = &dead->first});
}

uint32_t Matcher::frame(uint32_t back, uint32_t parent) {
  const auto [found, made] =
      frame_numbers_.emplace(uint64_t{back} << 32 | parent, static_cast<uint32_t>(frames_.size()));
  if (made) frames_.push_back({.back = back, .parent = parent, .depth = frames_[parent].depth + 1});
  return found->second;
}

uint32_t Matcher::close(std::vector<Place> places) {
  seen_.clear();
  std::vector<Place> reading;
  bool complete = false;
  const auto visit = [&](uint32_t state, uint32_t frame) {
    if (frames_[frame].depth + automaton_->need(state) > kMaxDepth) return;
    const Place place = Place{state} << 32 | frame;
    if (seen_.insert(place)) places.push_back(place);
  };
  std::vector<Place> starts;
  starts.swap(places);
  for (const Place start : starts)
    visit(static_cast<uint32_t>(start >> 32), static_cast<uint32_t>(start));
  for (size_t i = 0; i < places.size(); ++i) {
    const Place place = places[i];
    const auto frame = static_cast<uint32_t>(place);
    bool reads = false;
    for (const Edge& edge : automaton_->edges(static_cast<uint32_t>(place >> 32))) {
      switch (edge.kind) {
        case EdgeKind::kBytes:
          reads = true;
          break;
        case EdgeKind::kSkip:
          visit(edge.target, frame);
          break;
        case EdgeKind::kCall: {
          const uint32_t depth = frames_[frame].depth;
          const uint32_t entry = automaton_->entry(edge.rule);
          if (depth + automaton_->need(edge.target) > kMaxDepth ||
              depth + 1 + automaton_->need(entry) > kMaxDepth || frames_.size() >= kMaxFrames)
            break;
          visit(entry, this->frame(edge.target, frame));
          break;
        }
        case EdgeKind::kReturn:
          if (frame == kRootFrame) {
            complete = true;
          } else {
            visit(frames_[frame].back, frames_[frame].parent);
          }
          break;
      }
    }
    if (reads && reading.size() < kMaxPlaces) reading.push_back(place);
  }
  std::ranges::sort(reading);
  const bool reads = !reading.empty();
  if (complete) reading.push_back(kComplete);
  const auto found = numbers_.find(reading);
  if (found != numbers_.end()) return found->second;
  if (sets_.size() >= kMaxSets) return kDead;
  const auto number = static_cast<uint32_t>(sets_.size());
  const auto made = numbers_.emplace(std::move(reading), number).first;
  sets_.push_back({.places = &made->first, .complete = complete, .reads = reads});
  return number;
}

uint32_t Matcher::step(uint32_t set, uint8_t byte) {
  if (!sets_[set].next) {
    sets_[set].next = std::make_unique<std::array<uint32_t, 256>>();
    sets_[set].next->fill(kUnknown);
  }
  const uint32_t known = (*sets_[set].next)[byte];
  if (known != kUnknown) return known;
  std::vector<Place> places;
  for (const Place place : *sets_[set].places) {
    if (place == kComplete) break;
    for (const Edge& edge : automaton_->edges(static_cast<uint32_t>(place >> 32))) {
      if (edge.kind == EdgeKind::kBytes && edge.low <= byte && byte <= edge.high)
        places.push_back(Place{edge.target} << 32 | static_cast<uint32_t>(place));
    }
  }
  const uint32_t next = places.empty() ? kDead : close(std::move(places));
  (*sets_[set].next)[byte] = next;
  return next;
}

uint32_t Matcher::walk(std::string_view bytes) {
  uint32_t set = current_;
  for (const char c : bytes) {
    set = step(set, static_cast<uint8_t>(c));
    if (set == kDead) break;
  }
  return set;
}

bool Matcher::allows(std::string_view bytes) { return walk(bytes) != kDead; }

bool Matcher::accept(std::string_view bytes) {
  const uint32_t set = walk(bytes);
  if (set == kDead) return false;
  current_ = set;
  trim();
  return true;
}

// When half of the room for sets or frames is used up, all but the current set is forgotten.
void Matcher::trim() {
  if (sets_.size() < kMaxSets / 2 && frames_.size() < kMaxFrames / 2) return;
  const std::vector<Place> places = *sets_[current_].places;
  const bool complete = sets_[current_].complete;
  const std::vector<Frame> old = std::exchange(frames_, {});
  reset();
  std::map<uint32_t, uint32_t> moved{{kRootFrame, kRootFrame}};
  std::vector<Place> kept;
  for (const Place place : places) {
    if (place == kComplete) break;
    std::vector<uint32_t> chain;  // from the place's frame up to one that has moved
    for (auto f = static_cast<uint32_t>(place); !moved.contains(f); f = old[f].parent)
      chain.push_back(f);
    for (; !chain.empty(); chain.pop_back()) {
      const Frame& frame = old[chain.back()];
      moved[chain.back()] = this->frame(frame.back, moved[frame.parent]);
    }
    kept.push_back((place >> 32) << 32 | moved[static_cast<uint32_t>(place)]);
  }
  std::ranges::sort(kept);
  const bool reads = !kept.empty();
  if (complete) kept.push_back(kComplete);
  current_ = static_cast<uint32_t>(sets_.size());
  const auto made = numbers_.emplace(std::move(kept), current_).first;
  sets_.push_back({.places = &made->first, .complete = complete, .reads = reads});
}

}  // namespace lapidary::grammar
