#include "engine/grammar/automaton.h"

#include <algorithm>

#include "engine/base/text.h"

namespace lapidary::grammar {
namespace {

constexpr uint32_t kFirstSurrogate = 0xD800;
constexpr uint32_t kLastSurrogate = 0xDFFF;

uint32_t utf8_length(uint32_t code) {
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

uint8_t utf8_byte(uint32_t code, uint32_t length, uint32_t i) {
  constexpr uint8_t kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  const uint32_t bits = code >> (6 * (length - 1 - i));
  return static_cast<uint8_t>(i == 0 ? kLead[length] | bits : 0x80 | (bits & 0x3F));
}

}  // namespace

CodePoints normalized(const CodePoints& ranges) {
  CodePoints cut;
  for (const auto& [low, high] : ranges) {
    if (low < kFirstSurrogate && low <= high)
      cut.emplace_back(low, std::min(high, kFirstSurrogate - 1));
    if (high > kLastSurrogate)
      cut.emplace_back(std::max(low, kLastSurrogate + 1), std::min(high, kLastCodePoint));
  }
  std::ranges::sort(cut);
  CodePoints out;
  for (const auto& [low, high] : cut) {
    if (low > high) continue;
    if (!out.empty() && low <= out.back().second + 1) {
      out.back().second = std::max(out.back().second, high);
    } else {
      out.emplace_back(low, high);
    }
  }
  return out;
}

CodePoints complement(const CodePoints& normal) {
  CodePoints out;
  uint32_t next = 0;
  for (const auto& [low, high] : normal) {
    if (low > next) out.emplace_back(next, low - 1);
    next = high + 1;
  }
  if (next <= kLastCodePoint) out.emplace_back(next, kLastCodePoint);
  return normalized(out);
}

uint32_t Builder::state() {
  if (states_.size() >= kMaxStates) {
    full_ = true;
    return 0;
  }
  states_.emplace_back();
  return static_cast<uint32_t>(states_.size() - 1);
}

uint32_t Builder::rule() {
  const uint32_t entry = state();
  const uint32_t exit = state();
  edge(exit, {.kind = EdgeKind::kReturn});
  rules_.push_back({entry, exit});
  return static_cast<uint32_t>(rules_.size() - 1);
}

void Builder::edge(uint32_t from, Edge edge) {
  if (edges_ >= kMaxEdges) full_ = true;
  if (full_) return;
  states_[from].push_back(edge);
  ++edges_;
}

uint32_t Builder::byte(uint32_t from, uint8_t value) {
  const uint32_t to = state();
  bytes(from, value, value, to);
  return to;
}

uint32_t Builder::literal(uint32_t from, std::string_view text) {
  for (const char c : text) from = byte(from, static_cast<uint8_t>(c));
  return from;
}

uint32_t Builder::call(uint32_t from, uint32_t rule) {
  const uint32_t to = state();
  call(from, rule, to);
  return to;
}

// Cuts until the bytes of a range are ranges, too: all but the leading ones that `low` and `high`
// share and the one behind those are 80 to BF.
void Builder::utf8_range(uint32_t from, uint32_t low, uint32_t high, uint32_t to) {
  for (const uint32_t last : {0x7Fu, 0x7FFu, 0xFFFFu}) {
    if (low <= last && high > last) {
      utf8_range(from, low, last, to);
      return utf8_range(from, last + 1, high, to);
    }
  }
  const uint32_t length = utf8_length(low);
  for (uint32_t i = 1; i < length; ++i) {
    const uint32_t mask = (1u << (6 * i)) - 1;
    if ((low & ~mask) == (high & ~mask)) continue;
    if ((low & mask) != 0) {
      utf8_range(from, low, low | mask, to);
      return utf8_range(from, (low | mask) + 1, high, to);
    }
    if ((high & mask) != mask) {
      utf8_range(from, low, (high & ~mask) - 1, to);
      return utf8_range(from, high & ~mask, high, to);
    }
  }
  for (uint32_t i = 0; i < length; ++i) {
    const uint32_t next = i + 1 == length ? to : state();
    bytes(from, utf8_byte(low, length, i), utf8_byte(high, length, i), next);
    from = next;
  }
}

void Builder::code_points(uint32_t from, const CodePoints& normal, uint32_t to) {
  for (const auto& [low, high] : normal) utf8_range(from, low, high, to);
}

uint32_t Builder::any_of(uint32_t from, std::vector<std::string> words) {
  std::ranges::sort(words);
  const uint32_t to = state();
  std::vector<uint32_t> path{from};  // states of the last word, by bytes read
  std::string_view last;
  for (const std::string& word : words) {
    const auto common = std::ranges::mismatch(word, last).in1 - word.begin();
    path.resize(static_cast<size_t>(common) + 1);
    for (const char c : std::string_view(word).substr(static_cast<size_t>(common)))
      path.push_back(byte(path.back(), static_cast<uint8_t>(c)));
    skip(path.back(), to);
    last = word;
  }
  return to;
}

// The least fixed point of
//   need(s) = min over edges of: return 0; bytes, skip need(target);
//             call max(1 + need(entry of the rule), need(target)).
// Values only sink, each at most kMaxDepth times, so the work is bounded.
std::vector<uint8_t> Builder::needs() const {
  constexpr uint8_t kNever = kMaxDepth + 1;
  const auto count = static_cast<uint32_t>(states_.size());
  std::vector<uint8_t> need(count, kNever);
  // Who reads need(s), as lists in one array: a state once for each of its edges that does.
  std::vector<uint32_t> first(count + 1);
  const auto each = [&](auto visit) {
    for (uint32_t s = 0; s < count; ++s) {
      for (const Edge& e : states_[s]) {
        if (e.kind != EdgeKind::kReturn) visit(e.target, s);
        if (e.kind == EdgeKind::kCall) visit(rules_[e.rule].entry, s);
      }
    }
  };
  each([&](uint32_t read, uint32_t) { ++first[read + 1]; });
  for (uint32_t s = 0; s < count; ++s) first[s + 1] += first[s];
  std::vector<uint32_t> readers(first[count]);
  std::vector<uint32_t> next(first.begin(), first.end() - 1);
  each([&](uint32_t read, uint32_t s) { readers[next[read]++] = s; });

  const auto least = [&](uint32_t s) {
    uint8_t value = kNever;
    for (const Edge& e : states_[s]) {
      uint8_t through = 0;
      if (e.kind != EdgeKind::kReturn) through = need[e.target];
      if (e.kind == EdgeKind::kCall) {
        const auto inner = static_cast<uint8_t>(need[rules_[e.rule].entry] + 1);
        through = std::max(through, std::min(inner, kNever));
      }
      value = std::min(value, through);
    }
    return value;
  };
  std::vector<uint32_t> work(count);
  std::vector<bool> waits(count, true);
  for (uint32_t s = 0; s < count; ++s) work[s] = s;
  while (!work.empty()) {
    const uint32_t s = work.back();
    work.pop_back();
    waits[s] = false;
    const uint8_t value = least(s);
    if (value >= need[s]) continue;
    need[s] = value;
    for (uint32_t i = first[s]; i < first[s + 1]; ++i) {
      if (!waits[readers[i]]) work.push_back(readers[i]);
      waits[readers[i]] = true;
    }
  }
  return need;
}

Result<Automaton> Builder::finish() && {
  if (full_) {
    return fail(ErrorCode::kUnsupported,
                cat("format: the schema needs more than ", kMaxStates,
                    " states. Ask for fewer properties, or for shorter lengths and patterns"));
  }
  Automaton out;
  out.need_ = needs();
  if (out.need_[rules_[Automaton::kRoot].entry] > kMaxDepth) {
    return fail(ErrorCode::kInvalidArgument,
                cat("format: no value satisfies the schema with at most ", kMaxDepth,
                    " values in each other"));
  }
  out.edges_.reserve(edges_);
  for (const std::vector<Edge>& edges : states_) {
    out.first_.push_back(static_cast<uint32_t>(out.edges_.size()));
    out.edges_.insert(out.edges_.end(), edges.begin(), edges.end());
  }
  out.first_.push_back(static_cast<uint32_t>(out.edges_.size()));
  for (const Rule& rule : rules_) out.entries_.push_back(rule.entry);
  return out;
}

}  // namespace lapidary::grammar
