#include "engine/grammar/notation.h"

#include <algorithm>

#include "engine/tokenizer/utf8.h"

namespace lapidary::grammar {
namespace {

constexpr int kMaxIndent = 32;
constexpr std::string_view kHexDigits = "0123456789abcdef";

// Whether a key of a call needs no quotes.
bool is_bare(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
           c == '-';
  });
}

// JSON's escape of a character that must have one; empty for all others.
std::string escape_of(uint32_t code) {
  constexpr std::string_view kShort = "\"\\\b\f\n\r\t";
  constexpr std::string_view kNames = "\"\\bfnrt";
  if (code < 0x80) {
    const size_t at = kShort.find(static_cast<char>(code));
    if (at != std::string_view::npos) return {'\\', kNames[at]};
  }
  if (code >= 0x20) return {};
  return {'\\', 'u', '0', '0', kHexDigits[code >> 4], kHexDigits[code & 15]};
}

}  // namespace

void Notation::append_string(std::string& out, std::string_view text) const {
  if (!is_call()) return static_cast<void>(out.append(dump_json(Json(text))));
  out.push_back(static_cast<char>(kQuoteByte));
  out.append(text);
  out.push_back(static_cast<char>(kQuoteByte));
}

std::string Notation::key(std::string_view name) const {
  std::string out;
  if (is_call() && is_bare(name)) {
    out = name;
  } else {
    append_string(out, name);
  }
  return out;
}

void Notation::append(std::string& out, const Json& value) const {
  if (value.is_string()) {
    append_string(out, value.get_ref<const std::string&>());
  } else if (value.is_array() || value.is_object()) {
    const char* const brackets = value.is_array() ? "[]" : "{}";
    out.push_back(brackets[0]);
    bool first = true;
    for (const auto& [name, entry] : value.items()) {
      if (!first) out.push_back(',');
      first = false;
      if (value.is_object()) out.append(key(name)).push_back(':');
      append(out, entry);
    }
    out.push_back(brackets[1]);
  } else {
    out.append(dump_json(value));
  }
}

std::string Notation::literal(const Json& value) const {
  std::string out;
  append(out, value);
  return out;
}

// A hexadecimal digit of `first`, then `rest` of any.
uint32_t Notation::digits(uint32_t from, std::string_view first, uint32_t rest) {
  const uint32_t to = builder_.state();
  for (const char c : first) {
    builder_.bytes(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to);
    if (c >= 'a')
      builder_.bytes(from, static_cast<uint8_t>(c - 32), static_cast<uint8_t>(c - 32), to);
  }
  return rest == 0 ? to : digits(to, kHexDigits, rest - 1);
}

// All of JSON's escapes; those of surrogates in pairs alone.
void Notation::escapes(uint32_t from, uint32_t to) {
  const uint32_t escape = builder_.byte(from, '\\');
  for (const char c : std::string_view("\"\\/bfnrt"))
    builder_.bytes(escape, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to);
  const uint32_t code = builder_.byte(escape, 'u');
  builder_.skip(digits(code, "0123456789abcef", 3), to);
  const uint32_t d = digits(code, "d", 0);
  builder_.skip(digits(d, "01234567", 2), to);
  const uint32_t low = builder_.literal(digits(d, "89ab", 2), "\\u");
  builder_.skip(digits(digits(low, "d", 0), "cdef", 2), to);
}

uint32_t Notation::character(uint32_t from) {
  if (!any_) {
    any_ = builder_.rule();
    const uint32_t entry = builder_.entry(*any_);
    const uint32_t exit = builder_.exit(*any_);
    CodePoints raw{{0, kLastCodePoint}};
    if (!is_call()) {
      raw = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, kLastCodePoint}};
      escapes(entry, exit);
    }
    builder_.code_points(entry, normalized(raw), exit);
  }
  return builder_.call(from, *any_);
}

uint32_t Notation::character(uint32_t from, const CodePoints& normal) {
  const auto [found, made] = classes_.emplace(normal, 0);
  if (made) {
    found->second = builder_.rule();
    const uint32_t entry = builder_.entry(found->second);
    const uint32_t exit = builder_.exit(found->second);
    CodePoints raw;
    std::vector<std::string> escaped;
    for (auto [low, high] : normal) {
      for (uint32_t code = low; !is_call() && code <= std::min(high, 0x5Cu); ++code) {
        std::string escape = escape_of(code);
        if (escape.empty()) continue;
        escaped.push_back(std::move(escape));
        if (code > low) raw.emplace_back(low, code - 1);
        low = code + 1;
      }
      if (low <= high) raw.emplace_back(low, high);
    }
    builder_.code_points(entry, raw, exit);
    if (!escaped.empty()) builder_.skip(builder_.any_of(entry, std::move(escaped)), exit);
  }
  return builder_.call(from, found->second);
}

uint32_t Notation::characters(uint32_t from) {
  const uint32_t loop = builder_.state();
  builder_.skip(from, loop);
  builder_.skip(character(loop), loop);
  return loop;
}

uint32_t Notation::string(uint32_t from) { return quote(characters(quote(from))); }

// A tree of the keys that are taken: whoever leaves it may go on as he likes.
uint32_t Notation::other_key(uint32_t from, const std::vector<std::string>& taken) {
  struct Node {
    std::map<uint32_t, size_t> next;
    bool taken = false;
  };
  std::vector<Node> nodes(1);
  for (const std::string& name : taken) {
    size_t at = 0;
    for (std::string_view rest = name; !rest.empty();) {
      const tokenizer::Utf8Step step = tokenizer::utf8_step(rest);
      const auto code = tokenizer::utf8_code_point(rest.substr(0, step.length));
      rest.remove_prefix(step.length);
      const auto [found, made] = nodes[at].next.emplace(code, nodes.size());
      at = found->second;
      if (made) nodes.emplace_back();
    }
    nodes[at].taken = true;
  }
  const uint32_t free = builder_.state();
  const uint32_t end = quote(characters(free));
  std::vector<uint32_t> states(nodes.size());
  for (uint32_t& state : states) state = builder_.state();
  builder_.skip(quote(from), states[0]);
  for (size_t i = 0; i < nodes.size() && !builder_.full(); ++i) {
    CodePoints branches;
    for (const auto& [code, node] : nodes[i].next) {
      branches.emplace_back(code, code);
      builder_.skip(character(states[i], {{code, code}}), states[node]);
    }
    builder_.skip(character(states[i], complement(normalized(branches))), free);
    if (!nodes[i].taken) builder_.skip(quote(states[i]), end);
  }
  return end;
}

uint32_t Notation::space(uint32_t from) {
  if (is_call()) return from;
  if (!space_) {
    space_ = builder_.rule();
    const uint32_t entry = builder_.entry(*space_);
    const uint32_t exit = builder_.exit(*space_);
    builder_.skip(entry, exit);
    builder_.bytes(entry, ' ', ' ', exit);
    uint32_t at = builder_.byte(entry, '\n');
    for (int i = 0; i <= kMaxIndent; ++i) {
      builder_.skip(at, exit);
      if (i == kMaxIndent) break;
      const uint32_t next = builder_.state();
      builder_.bytes(at, ' ', ' ', next);
      builder_.bytes(at, '\t', '\t', next);
      at = next;
    }
  }
  return builder_.call(from, *space_);
}

}  // namespace lapidary::grammar
