#include "engine/chat/tool_call.h"

#include <algorithm>
#include <optional>

#include "engine/base/text.h"
#include "engine/chat/tags.h"

namespace lapidary::chat {
namespace {

constexpr int kMaxDepth = 48;
// Members of one object: finding a key is linear, so this bounds the work on a runaway reply.
constexpr size_t kMaxMembers = 2048;
// How far past a comma an argument's name is looked for.
constexpr size_t kMaxKeyLength = 256;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// true, false, null or a JSON number.
std::optional<Json> parse_literal(std::string_view text) {
  if (text == "true") return Json(true);
  if (text == "false") return Json(false);
  if (text == "null") return Json(nullptr);
  if (text.empty() || text.find_first_not_of("+-0123456789.eE") != std::string_view::npos)
    return std::nullopt;
  auto number = parse_json(text, "number");
  if (!number || !number->is_number()) return std::nullopt;
  return *std::move(number);
}

// Text without quote marks, for places where a mark means nothing.
std::string unmark(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == kQuoteMark) {
      out.append(kQuote);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

class CallParser {
 public:
  CallParser(std::string_view text, std::span<const ToolDeclaration> tools, bool lenient)
      : text_(text), tools_(tools), lenient_(lenient) {}

  std::optional<std::vector<ToolCall>> run() {
    std::vector<ToolCall> calls;
    skip_space();
    while (at_ < text_.size()) {
      auto call = parse_call();
      if (!call) return std::nullopt;
      calls.push_back(*std::move(call));
      skip_space();
      while (lenient_ && at_ < text_.size() && text_[at_] == '}') {  // one brace too many
        ++at_;
        skip_space();
      }
    }
    if (calls.empty()) return std::nullopt;
    return calls;
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }
  bool accept(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string_view rest() const { return text_.substr(at_); }

  std::optional<ToolCall> parse_call() {
    if (!rest().starts_with("call:")) return std::nullopt;
    at_ += 5;
    const size_t brace = std::min(text_.find('{', at_), text_.size());
    ToolCall call;
    call.name = trim(text_.substr(at_, brace - at_));
    const bool plain = std::ranges::none_of(call.name, [](char c) {
      return is_space(c) || c == kQuoteMark || c == '}' || c == '"' || c == '(';
    });
    if (call.name.empty() || !plain) return std::nullopt;
    if (brace == text_.size()) {  // no arguments at all
      at_ = brace;
      if (!lenient_) return std::nullopt;
      return call;
    }
    at_ = brace + 1;
    schema_ = nullptr;
    for (const ToolDeclaration& tool : tools_) {
      if (tool.name == call.name) schema_ = json_member(tool.parameters, "properties");
    }
    depth_ = 0;
    auto arguments = parse_object();
    if (!arguments) return std::nullopt;
    call.arguments = *std::move(arguments);
    return call;
  }

  // After the opening brace, up to and with the closing one.
  std::optional<Json> parse_object() {
    if (++depth_ > kMaxDepth) return std::nullopt;
    Json object = Json::object();
    for (;;) {
      skip_space();
      if (accept('}')) break;
      if (at_ == text_.size()) {
        if (!lenient_) return std::nullopt;
        break;
      }
      if (!object.empty()) {
        if (!accept(',')) return std::nullopt;
        skip_space();
        if (lenient_ && (accept('}') || at_ == text_.size())) break;
      }
      auto key = parse_key();
      if (!key || object.size() >= kMaxMembers) return std::nullopt;
      auto value = parse_value(depth_ == 1 ? &*key : nullptr);
      if (!value) return std::nullopt;
      object[*key] = *std::move(value);
    }
    --depth_;
    return object;
  }

  std::optional<Json> parse_list() {
    if (++depth_ > kMaxDepth) return std::nullopt;
    Json list = Json::array();
    for (;;) {
      skip_space();
      if (accept(']')) break;
      if (at_ == text_.size()) {
        if (!lenient_) return std::nullopt;
        break;
      }
      if (!list.empty() && !accept(',')) return std::nullopt;
      auto value = parse_value(nullptr);
      if (!value) return std::nullopt;
      list.push_back(*std::move(value));
    }
    --depth_;
    return list;
  }

  std::optional<std::string> parse_key() {
    std::optional<std::string> key;
    if (accept(kQuoteMark)) {
      const size_t end = text_.find(kQuoteMark, at_);
      if (end == std::string_view::npos) return std::nullopt;
      key = std::string(text_.substr(at_, end - at_));
      at_ = end + 1;
    } else if (rest().starts_with('"')) {
      key = parse_json_string();
    } else {
      const size_t end = text_.find_first_of(":}", at_);
      if (end == std::string_view::npos || text_[end] != ':') return std::nullopt;
      key = unmark(trim(text_.substr(at_, end - at_)));
      at_ = end;
      if (key->empty()) return std::nullopt;
    }
    skip_space();
    if (!key || !accept(':')) return std::nullopt;
    return key;
  }

  // A double-quoted string with JSON's escapes.
  std::optional<std::string> parse_json_string() {
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != '"') end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) return std::nullopt;
    auto parsed = parse_json(unmark(text_.substr(at_, end + 1 - at_)), "string");
    if (!parsed || !parsed->is_string()) return std::nullopt;
    at_ = end + 1;
    return parsed->get<std::string>();
  }

  // key: the argument's name at the top level, where the schema knows its type; else null.
  std::optional<Json> parse_value(const std::string* key) {
    skip_space();
    if (accept(kQuoteMark)) return parse_quoted();
    if (accept('{')) return parse_object();
    if (accept('[')) return parse_list();
    if (rest().starts_with('"')) {
      const size_t start = at_;
      if (auto string = parse_json_string()) return Json(*std::move(string));
      at_ = start;
      if (!lenient_) return std::nullopt;
    }
    if (lenient_ && rest().starts_with('\'')) {
      if (auto string = parse_single_quoted()) return Json(*std::move(string));
    }
    const size_t end = std::min(text_.find_first_of(",}]", at_), text_.size());
    const std::string_view word = trim(text_.substr(at_, end - at_));
    const bool string_wanted = lenient_ && key != nullptr && is_string_argument(*key);
    if (!string_wanted) {
      if (auto literal = parse_literal(word)) {
        at_ = end;
        return literal;
      }
      if (!lenient_) return std::nullopt;
      at_ = end;
      return Json(unmark(word));
    }
    return parse_bare_string();
  }

  std::optional<Json> parse_quoted() {
    const size_t end = text_.find(kQuoteMark, at_);
    if (end != std::string_view::npos) {
      Json string = text_.substr(at_, end - at_);
      at_ = end + 1;
      return string;
    }
    if (!lenient_) return std::nullopt;
    // The closing quote is missing: the brackets at the very end are those that are open here.
    std::string_view content = trim(rest());
    for (int open = depth_; open > 0 && !content.empty(); --open) {
      if (content.back() != '}' && content.back() != ']') break;
      content.remove_suffix(1);
    }
    at_ = text_.size();
    return Json(content);
  }

  // 'text' whose closing quote is one that something structural follows.
  std::optional<std::string> parse_single_quoted() {
    for (size_t end = text_.find('\'', at_ + 1); end != std::string_view::npos;
         end = text_.find('\'', end + 1)) {
      size_t next = end + 1;
      while (next < text_.size() && is_space(text_[next])) ++next;
      if (next < text_.size() && text_[next] != ',' && text_[next] != '}' && text_[next] != ']')
        continue;
      std::string content = unmark(text_.substr(at_ + 1, end - at_ - 1));
      at_ = end + 1;
      return content;
    }
    return std::nullopt;
  }

  bool is_string_argument(const std::string& key) const {
    if (schema_ == nullptr) return false;
    const Json* property = json_member(*schema_, key);
    const Json* type = property == nullptr ? nullptr : json_member(*property, "type");
    if (type == nullptr || !type->is_string()) return false;
    const auto& name = type->get_ref<const std::string&>();
    return name == "string" || name == "STRING";
  }

  // An unquoted string: up to ",key:" of an argument that the schema knows, or to the end less its
  // brace.
  Json parse_bare_string() {
    size_t end = text_.find(',', at_);
    for (; end != std::string_view::npos; end = text_.find(',', end + 1)) {
      const std::string_view after = text_.substr(end + 1, kMaxKeyLength);
      const size_t colon = after.find(':');
      if (colon == std::string_view::npos) continue;
      if (json_member(*schema_, trim(after.substr(0, colon))) != nullptr) break;
    }
    std::string_view content =
        trim(text_.substr(at_, end == std::string_view::npos ? end : end - at_));
    if (end == std::string_view::npos) {
      end = text_.size();
      if (content.ends_with('}')) content.remove_suffix(1);
    }
    at_ = end;
    return Json(unmark(trim(content)));
  }

  std::string_view text_;
  std::span<const ToolDeclaration> tools_;
  bool lenient_;
  const Json* schema_ = nullptr;  // the current tool's properties
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::string mark_quotes(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    if (text.starts_with(kQuote)) {
      out.push_back(kQuoteMark);
      text.remove_prefix(kQuote.size());
      continue;
    }
    out.push_back(text.front() == kQuoteMark ? '?' : text.front());
    text.remove_prefix(1);
  }
  return out;
}

Result<std::vector<ToolCall>> parse_tool_calls(std::string_view body,
                                               std::span<const ToolDeclaration> tools) {
  for (const bool lenient : {false, true}) {
    if (auto calls = CallParser(body, tools, lenient).run()) return *std::move(calls);
  }
  // A model that spells its quotes out as plain text means quotes.
  if (body.find(kQuoteMark) == std::string_view::npos &&
      body.find(kQuote) != std::string_view::npos) {
    const std::string marked = mark_quotes(body);
    for (const bool lenient : {false, true}) {
      if (auto calls = CallParser(marked, tools, lenient).run()) return *std::move(calls);
    }
  }
  return fail(ErrorCode::kInvalidFormat,
              cat("tool call: '", printable(body), "' is not call:NAME{…}"));
}

}  // namespace lapidary::chat
