#include "engine/kernels/compose.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/wgsl.h"

namespace lapidary::kernels {
namespace {

constexpr int kMaxDepth = 16;

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

// The next line without its end; `text` moves past it.
std::string_view take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

struct Directive {
  std::string_view word;  // "if"; empty when the line is no directive
  std::string_view rest;
};
Directive directive(std::string_view line) {
  line = trimmed(line);
  if (!line.starts_with("//#")) return {};
  line.remove_prefix(3);
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return {line, {}};
  return {line.substr(0, space), trimmed(line.substr(space))};
}

// The lines up to the `end` that closes an already read `begin`; `text` moves past it.
std::string_view take_block(std::string_view& text, std::string_view begin, std::string_view end) {
  const std::string_view whole = text;
  int depth = 1;
  while (!text.empty()) {
    const size_t start = whole.size() - text.size();
    const std::string_view word = directive(take_line(text)).word;
    if (word == begin) ++depth;
    if (word == end && --depth == 0) return whole.substr(0, start);
  }
  return whole;
}

std::string replaced(std::string_view text, std::string_view name, uint32_t value) {
  const std::string mark = cat("${", name, "}");
  const std::string number = cat(value);
  std::string out;
  for (;;) {
    const size_t at = text.find(mark);
    out.append(text.substr(0, at));
    if (at == std::string_view::npos) return out;
    out.append(number);
    text.remove_prefix(at + mark.size());
  }
}

std::string hex(uint32_t value) {
  std::array<char, 8> digits{};
  char* const begin = digits.data();
  return {begin, std::to_chars(begin, begin + digits.size(), value, 16).ptr};
}

std::string mistake(std::string_view what, std::string_view name) {
  return cat("#error ", what, " '", name, "'\n");
}

}  // namespace

Groups fold_groups(uint64_t count) {
  constexpr uint64_t kMax = 65535;
  if (count <= kMax) return {static_cast<uint32_t>(std::max<uint64_t>(count, 1)), 1, 1};
  const uint64_t y = (count + kMax - 1) / kMax;
  return {static_cast<uint32_t>((count + y - 1) / y), static_cast<uint32_t>(y), 1};
}

std::string_view dot_name(Dot dot) {
  switch (dot) {
    case Dot::kF32:
      return "f32";
    case Dot::kInt16:
      return "int16";
    case Dot::kInt8:
      return "int8";
    case Dot::kMatrix:
      return "matrix";
  }
  return "";
}

const uint32_t* Composer::find(std::string_view name) const {
  for (const Name& entry : names_) {
    if (entry.name == name) return &entry.value;
  }
  return nullptr;
}

Composer& Composer::constant(std::string_view name, uint32_t value) {
  names_.push_back({std::string(name), value});
  body_ += cat("const ", name, ": u32 = ", value, "u;\n");
  return *this;
}

Composer& Composer::constant(std::string_view name, float value) {
  // As a whole number times a power of two: decimal text would have to round-trip in every
  // compiler, and Firefox's has no bitcast in constants.
  int exponent = 0;
  const float fraction = std::frexp(std::fabs(value), &exponent);
  const auto whole = static_cast<uint32_t>(std::ldexp(fraction, 24));
  body_ += cat("const ", name, ": f32 = ", value < 0 ? "-" : "", "0x", hex(whole), "p",
               exponent - 24, "f;\n");
  return *this;
}

Composer& Composer::flag(std::string_view name, uint32_t value) {
  names_.push_back({std::string(name), value});
  return *this;
}

Composer& Composer::enable(std::string_view name) {
  enables_ += cat("enable ", name, ";\n");
  return *this;
}

Composer& Composer::text(std::string_view wgsl) {
  append(wgsl, 0);
  return *this;
}

Composer& Composer::include(std::string_view module) {
  if (std::ranges::find(included_, module) != included_.end()) return *this;
  included_.emplace_back(module);
  const std::string_view text = wgsl(module);
  if (text.empty()) body_ += mistake("no module", module);
  append(text, 0);
  return *this;
}

void Composer::append(std::string_view wgsl, int depth) {
  if (depth > kMaxDepth) {
    body_ += mistake("directives nest too deep in", wgsl.substr(0, 40));
    return;
  }
  while (!wgsl.empty()) {
    const std::string_view line = take_line(wgsl);
    const Directive d = directive(line);
    if (d.word.empty()) {
      body_.append(line);
      body_.push_back('\n');
    } else if (d.word == "include") {
      include(d.rest);
    } else if (d.word == "if") {
      const bool negated = d.rest.starts_with('!');
      const uint32_t* value = find(negated ? d.rest.substr(1) : d.rest);
      if (value == nullptr) body_ += mistake("unknown flag", d.rest);
      std::string_view block = take_block(wgsl, "if", "endif");
      // Splits the block at its own //#else.
      std::string_view rest = block;
      std::string_view yes = block;
      std::string_view no;
      for (int nesting = 0; !rest.empty();) {
        const size_t start = block.size() - rest.size();
        const std::string_view word = directive(take_line(rest)).word;
        if (word == "if") ++nesting;
        if (word == "endif") --nesting;
        if (word == "else" && nesting == 0) {
          yes = block.substr(0, start);
          no = rest;
          break;
        }
      }
      append((value != nullptr && *value != 0) != negated ? yes : no, depth + 1);
    } else if (d.word == "repeat") {
      const size_t space = d.rest.find(' ');
      const std::string_view variable = d.rest.substr(0, space);
      const std::string_view count_name =
          space == std::string_view::npos ? "" : trimmed(d.rest.substr(space));
      const uint32_t* found = find(count_name);
      if (found == nullptr) body_ += mistake("unknown count", count_name);
      const uint32_t count = found == nullptr ? 0 : *found;
      const std::string_view block = take_block(wgsl, "repeat", "end");
      for (uint32_t i = 0; i < count; ++i) append(replaced(block, variable, i), depth + 1);
    } else {
      body_ += mistake("unknown directive", d.word);
    }
  }
}

Composer& Composer::bind(char access, std::string_view name, std::string_view type) {
  const std::string_view space = access == 'u'   ? "uniform"
                                 : access == 'w' ? "storage, read_write"
                                                 : "storage, read";
  body_ +=
      cat("@group(0) @binding(", layout_.size(), ") var<", space, "> ", name, ": ", type, ";\n");
  layout_.push_back(access);
  return *this;
}

KernelSource Composer::finish(std::string label) && {
  return {enables_ + body_, std::move(layout_), std::move(label)};
}

Composer reducing_composer(const Variant& variant, uint32_t threads) {
  Composer composer;
  if (variant.subgroups) composer.enable("subgroups");
  composer.flag("SUBGROUPS", variant.subgroups)
      .flag("LIGHT", variant.light)
      .constant("THREADS", threads)
      .include("step.wgsl")
      .include("bound.wgsl")
      .include("workgroup_reduce.wgsl");
  return composer;
}

void add_segments(Composer& composer, std::span<const Segment> segments, uint32_t cols, Dot dot) {
  const uint32_t units = div_ceil(cols, 32);
  composer.flag("INTEGER", dot != Dot::kF32)
      .flag("TWO_BYTES", dot == Dot::kInt16)
      .constant("UNITS", units)
      .constant("SUPERS", units / 8)
      .constant("SCALE_WORDS", div_ceil(units, 2))
      .constant("DELTA_WORDS", div_ceil(units / 8, 2))
      .include("planes.wgsl");
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& segment = segments[i];
    composer.include(cat("codec_", codec_prefix(segment.codec), ".wgsl"));
    const uint32_t rows = segment.matrix_rows == 0 ? segment.rows : segment.matrix_rows;
    const PackedLayout layout = packed_layout(segment.codec, rows, cols);
    // Planes that are read by vectors have whole ones a row.
    const PlaneWords row = plane_words(segment.codec, cols);
    const uint64_t first = segment.first_row;
    const uint64_t vectors = segment.offset / 16;
    const uint64_t words = segment.offset / 4;
    composer.text(cat(
        "const SEGMENT_", i, " = Planes(", vectors + layout.quants + first * row.quants / 4, "u, ",
        words + layout.high + first * row.high, "u, ", words + layout.scales + first * row.scales,
        "u, ", words + layout.deltas + first * row.deltas, "u, ",
        vectors + layout.supers + first * row.supers / 4, "u);\n"));
    composer.constant(cat("ROWS_", i), segment.rows);
  }
}

}  // namespace lapidary::kernels
