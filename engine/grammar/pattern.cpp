#include "engine/grammar/pattern.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/tokenizer/utf8.h"

namespace lapidary::grammar {
namespace {

constexpr int kMaxGroups = 64;  // in each other
constexpr uint32_t kMaxRepeats = 10'000;
constexpr uint32_t kUnbounded = UINT32_MAX;

const CodePoints kDigits{{'0', '9'}};
const CodePoints kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodePoints kSpaces{{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                         {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                         {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CodePoints kLineEnds{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

class Compiler {
 public:
  Compiler(Notation& notation, std::string_view text)
      : notation_(notation), builder_(notation.builder()), text_(text) {}

  Result<uint32_t> run(uint32_t from) {
    TRY(const uint32_t to, alternatives(from, /*top=*/true));
    if (at_ < text_.size()) return invalid("a ')' too many");
    return to;
  }

 private:
  static std::unexpected<Error> invalid(std::string_view what) {
    return fail(ErrorCode::kInvalidArgument, cat("is no regular expression: ", what));
  }
  static std::unexpected<Error> unsupported(std::string_view what) {
    return fail(ErrorCode::kUnsupported, cat("is not supported: ", what));
  }
  bool more() const { return at_ < text_.size(); }
  char peek() const { return more() ? text_[at_] : '\0'; }
  bool take(std::string_view expected) {
    if (!text_.substr(at_).starts_with(expected)) return false;
    at_ += expected.size();
    return true;
  }
  uint32_t take_code_point() {
    const tokenizer::Utf8Step step = tokenizer::utf8_step(text_.substr(at_));
    at_ += step.length;
    return tokenizer::utf8_code_point(text_.substr(at_ - step.length, step.length));
  }

  Result<uint32_t> alternatives(uint32_t from, bool top) {
    const uint32_t to = builder_.state();
    do {
      const bool anchored = top && take("^");
      TRY(uint32_t at, sequence(anchored || !top ? from : notation_.characters(from)));
      if (peek() == '$') {
        if (!top || (at_ + 1 < text_.size() && text_[at_ + 1] != '|'))
          return unsupported("'$' within it");
        ++at_;
      } else if (top) {
        at = notation_.characters(at);
      }
      builder_.skip(at, to);
    } while (take("|"));
    return to;
  }

  Result<uint32_t> sequence(uint32_t from) {
    while (more() && peek() != '|' && peek() != ')' && peek() != '$') {
      TRY(from, repeated(from));
    }
    return from;
  }

  // An atom and its quantifier. Copies are made by reading the atom again.
  Result<uint32_t> repeated(uint32_t from) {
    if (builder_.full()) return unsupported("it is too large");
    const size_t start = at_;
    TRY(const uint32_t once, atom(from));
    const size_t end = at_;
    uint32_t least = 1;
    uint32_t most = 1;
    TRY_VOID(quantifier(least, most));
    const size_t after = at_;
    if (least == 1 && most == 1) return once;
    const auto copy = [&](uint32_t at) -> Result<uint32_t> {
      at_ = start;
      TRY(const uint32_t to, atom(at));
      at_ = end;
      return to;
    };
    // The copy made above counts where one is wanted from here; else it leads nowhere (and is
    // pruned by the matcher, for nothing goes on from it).
    uint32_t at = least > 0 ? once : from;
    for (uint32_t i = 1; i < least && !builder_.full(); ++i) {
      TRY(at, copy(at));
    }
    const uint32_t to = builder_.state();
    if (most == kUnbounded) {
      const uint32_t loop = builder_.state();
      builder_.skip(at, loop);
      TRY(const uint32_t back, copy(loop));
      builder_.skip(back, loop);
      builder_.skip(loop, to);
    } else {
      builder_.skip(at, to);
      for (uint32_t i = least; i < most && !builder_.full(); ++i) {
        TRY(at, copy(at));
        builder_.skip(at, to);
      }
    }
    at_ = after;
    return to;
  }

  Status quantifier(uint32_t& least, uint32_t& most) {
    if (take("*")) {
      least = 0;
      most = kUnbounded;
    } else if (take("+")) {
      most = kUnbounded;
    } else if (take("?")) {
      least = 0;
    } else if (take("{")) {
      if (!number(least)) return invalid("'{' without a number");
      most = least;
      if (take(",") && !number(most)) most = kUnbounded;
      if (!take("}") || most < least) return invalid("a quantifier that is none");
      if (least > kMaxRepeats || (most != kUnbounded && most > kMaxRepeats))
        return unsupported(cat("more than ", kMaxRepeats, " repeats"));
    } else {
      return {};
    }
    take("?");  // as few as possible: the language is the same
    if (peek() == '*' || peek() == '+' || peek() == '?' || peek() == '{')
      return invalid("a quantifier without what it repeats");
    return {};
  }

  bool number(uint32_t& out) {
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), out);
    if (error != std::errc()) return false;
    at_ = static_cast<size_t>(end - text_.data());
    return true;
  }

  Result<uint32_t> atom(uint32_t from) {
    switch (peek()) {
      case '(':
        return group(from);
      case '[': {
        ++at_;
        TRY(const CodePoints set, char_class());
        return notation_.character(from, set);
      }
      case '.':
        ++at_;
        return notation_.character(from, complement(kLineEnds));
      case '\\': {
        TRY(const CodePoints set, escape(/*in_class=*/false));
        return notation_.character(from, set);
      }
      case '^':
        return unsupported("'^' within it");
      case '*':
      case '+':
      case '?':
      case '{':
        return invalid("a quantifier without what it repeats");
      case ']':
      case '}':
        return invalid("a bracket too many");
      default: {
        const uint32_t code = take_code_point();
        return notation_.character(from, {{code, code}});
      }
    }
  }

  Result<uint32_t> group(uint32_t from) {
    ++at_;
    if (take("?") && !take(":")) return unsupported("groups with '(?' other than '(?:'");
    if (++groups_ > kMaxGroups)
      return unsupported(cat("more than ", kMaxGroups, " groups in each other"));
    TRY(const uint32_t to, alternatives(from, /*top=*/false));
    --groups_;
    if (!take(")")) return invalid("a '(' without its ')'");
    return to;
  }

  // After the opening bracket, up to and with the closing one.
  Result<CodePoints> char_class() {
    const bool negated = take("^");
    CodePoints out;
    while (!take("]")) {
      if (!more()) return invalid("a '[' without its ']'");
      TRY(const CodePoints low, class_atom());
      const bool single = low.size() == 1 && low[0].first == low[0].second;
      if (peek() != '-' || text_.substr(at_).starts_with("-]")) {
        out.insert(out.end(), low.begin(), low.end());
        continue;
      }
      ++at_;
      TRY(const CodePoints high, class_atom());
      if (!single || high.size() != 1 || high[0].first != high[0].second ||
          low[0].first > high[0].first)
        return invalid("a range that is none");
      out.emplace_back(low[0].first, high[0].first);
    }
    out = normalized(out);
    if (negated) out = complement(out);
    return out;
  }

  Result<CodePoints> class_atom() {
    if (!more()) return invalid("a '[' without its ']'");
    if (peek() == '\\') return escape(/*in_class=*/true);
    const uint32_t code = take_code_point();
    return CodePoints{{code, code}};
  }

  Result<CodePoints> escape(bool in_class) {
    ++at_;
    if (!more()) return invalid("a '\\' at the end");
    const char c = text_[at_++];
    const auto one = [](uint32_t code) { return CodePoints{{code, code}}; };
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return complement(kDigits);
      case 'w':
        return kWord;
      case 'W':
        return complement(kWord);
      case 's':
        return kSpaces;
      case 'S':
        return complement(kSpaces);
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'v':
        return one('\v');
      case 'f':
        return one('\f');
      case 'r':
        return one('\r');
      case 'x':
        return hexadecimal(2);
      case 'u':
        return hexadecimal(4);
      default:
        break;
    }
    if (std::string_view("^$\\.*+?()[]{}|/").contains(c) || (in_class && c == '-'))
      return one(static_cast<uint8_t>(c));
    return unsupported(cat("'\\", printable(std::string_view(&c, 1)), "'"));
  }

  Result<CodePoints> hexadecimal(size_t digits) {
    const std::string_view text = text_.substr(at_, digits);
    uint32_t code = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), code, 16);
    if (text.size() != digits || error != std::errc() || end != text.data() + digits)
      return unsupported("an escape by number other than \\xHH and \\uHHHH");
    CodePoints out = normalized({{code, code}});
    if (out.empty()) return unsupported("surrogates");
    at_ += digits;
    return out;
  }

  Notation& notation_;
  Builder& builder_;
  std::string_view text_;
  size_t at_ = 0;
  int groups_ = 0;
};

}  // namespace

Result<uint32_t> pattern(Notation& notation, uint32_t from, std::string_view expression) {
  return Compiler(notation, expression).run(from);
}

}  // namespace lapidary::grammar
