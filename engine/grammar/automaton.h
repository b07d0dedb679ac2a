// A context-free language over bytes as a network of states: edges read a byte, call a rule, or
// read nothing. What may be written next is a set of (state, stack of callers): matcher.h.
//
// Bytes that no UTF-8 text holds stand for the tags of the chat format (gemma4.md §6).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/error.h"

namespace lapidary::grammar {

inline constexpr uint8_t kChannelOpenByte = 0xFB;
inline constexpr uint8_t kChannelCloseByte = 0xFC;
inline constexpr uint8_t kCallOpenByte = 0xFD;
inline constexpr uint8_t kCallCloseByte = 0xFE;
inline constexpr uint8_t kQuoteByte = 0xFF;
// Bytes below this one are text.
inline constexpr uint8_t kFirstTagByte = 0xFB;

// Callers on a stack: recursion in a schema goes no deeper.
inline constexpr uint32_t kMaxDepth = 40;
inline constexpr size_t kMaxStates = 1 << 16;
inline constexpr size_t kMaxEdges = 4 * kMaxStates;

enum class EdgeKind : uint8_t { kBytes, kSkip, kCall, kReturn };

struct Edge {
  EdgeKind kind = EdgeKind::kSkip;
  uint8_t low = 0, high = 0;  // kBytes: these, both ends included
  uint32_t target = 0;        // not of kReturn
  uint32_t rule = 0;          // kCall
};

// Complete, immutable, and without dead ends: from every state the end can be reached within
// kMaxDepth callers, as long as `need` is heeded.
class Automaton {
 public:
  std::span<const Edge> edges(uint32_t state) const {
    return std::span(edges_).subspan(first_[state], first_[state + 1] - first_[state]);
  }
  uint32_t entry(uint32_t rule) const { return entries_[rule]; }
  // Callers that must fit on the stack beyond those there to get from `state` to its rule's end;
  // above kMaxDepth: none are enough.
  uint32_t need(uint32_t state) const { return need_[state]; }
  size_t states() const { return need_.size(); }

  // Rule 0 is where text begins.
  static constexpr uint32_t kRoot = 0;

 private:
  friend class Builder;
  std::vector<uint32_t> first_;  // [states + 1] into edges_
  std::vector<Edge> edges_;
  std::vector<uint32_t> entries_;  // by rule
  std::vector<uint8_t> need_;      // [states]
};

// Inclusive ranges of code points.
using CodePoints = std::vector<std::pair<uint32_t, uint32_t>>;
inline constexpr uint32_t kLastCodePoint = 0x10FFFF;
// Sorted, without overlaps and surrogates.
CodePoints normalized(const CodePoints& ranges);
CodePoints complement(const CodePoints& normal);

// Makes an automaton. What would exceed kMaxStates or kMaxEdges is left out, and finish() fails.
// Functions that return a state add a path from `from` to it.
class Builder {
 public:
  Builder() { rule(); }

  uint32_t state();
  // A new rule; its path leads from entry(rule) to exit(rule).
  uint32_t rule();
  uint32_t entry(uint32_t rule) const { return rules_[rule].entry; }
  uint32_t exit(uint32_t rule) const { return rules_[rule].exit; }
  bool full() const { return full_; }

  void bytes(uint32_t from, uint8_t low, uint8_t high, uint32_t to) {
    edge(from, {.kind = EdgeKind::kBytes, .low = low, .high = high, .target = to});
  }
  void skip(uint32_t from, uint32_t to) { edge(from, {.target = to}); }
  void call(uint32_t from, uint32_t rule, uint32_t to) {
    edge(from, {.kind = EdgeKind::kCall, .target = to, .rule = rule});
  }
  uint32_t byte(uint32_t from, uint8_t value);
  uint32_t literal(uint32_t from, std::string_view text);
  uint32_t call(uint32_t from, uint32_t rule);
  // One code point of `normal`, in UTF-8.
  void code_points(uint32_t from, const CodePoints& normal, uint32_t to);
  // Any of `words`, sharing their beginnings.
  uint32_t any_of(uint32_t from, std::vector<std::string> words);

  // kUnsupported: too large. kInvalidArgument: nothing finite belongs to the language.
  Result<Automaton> finish() &&;

 private:
  struct Rule {
    uint32_t entry, exit;
  };
  void edge(uint32_t from, Edge edge);
  void utf8_range(uint32_t from, uint32_t low, uint32_t high, uint32_t to);
  std::vector<uint8_t> needs() const;

  std::vector<std::vector<Edge>> states_;
  std::vector<Rule> rules_;
  size_t edges_ = 0;
  bool full_ = false;
};

}  // namespace lapidary::grammar
