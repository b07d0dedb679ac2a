#include "engine/grammar/schema.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "engine/base/text.h"
#include "engine/grammar/numbers.h"
#include "engine/grammar/pattern.h"

namespace lapidary::grammar {
namespace {

// They say nothing about a value. Lists of keywords are words with a space on either side.
constexpr std::string_view kAnnotations =
    " title description default examples deprecated readOnly writeOnly $comment $schema $defs "
    "definitions ";
constexpr std::string_view kNumberKeywords = " minimum maximum exclusiveMinimum exclusiveMaximum ";
constexpr std::string_view kStringKeywords = " minLength maxLength pattern format ";
constexpr std::string_view kArrayKeywords = " items minItems maxItems ";
constexpr std::string_view kObjectKeywords = " properties required additionalProperties ";

struct Format {
  std::string_view name, pattern;
};
#define DATE                                                                                  \
  "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|"     \
  "[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(" \
  "?:[02468][048]|[13579][26])00)-02-29)"
#define TIME                                                                                  \
  "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3])" \
  ":[0-5][0-9])"
#define BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
constexpr Format kFormats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"uuid", "^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"},
    {"ipv4", "^" BYTE "(?:\\." BYTE "){3}$"},
};
#undef DATE
#undef TIME
#undef BYTE

bool lists(std::string_view words, std::string_view word) {
  for (size_t at = words.find(word); at != std::string_view::npos; at = words.find(word, at + 1)) {
    if (at > 0 && words[at - 1] == ' ' && words.substr(at + word.size()).starts_with(' '))
      return !word.empty() && !word.contains(' ');
  }
  return false;
}

std::unexpected<Error> refuse(ErrorCode code, std::string_view path, std::string_view key,
                              std::string_view what) {
  return fail(code, cat("format: '", printable(key), "' at ", printable(path, 256), " ", what));
}
std::unexpected<Error> invalid(std::string_view path, std::string_view key, std::string_view what) {
  return refuse(ErrorCode::kInvalidArgument, path, key, what);
}
std::unexpected<Error> unsupported(std::string_view path, std::string_view key,
                                   std::string_view what) {
  return refuse(ErrorCode::kUnsupported, path, key, what);
}

// A part of a JSON pointer, escaped (RFC 6901).
std::string escaped(std::string_view key) {
  std::string out;
  for (const char c : key) {
    if (c == '~') {
      out.append("~0");
    } else if (c == '/') {
      out.append("~1");
    } else {
      out.push_back(c);
    }
  }
  return out;
}

// The schema that a pointer ("/$defs/a") leads to, or null.
const Json* resolve(const Json& root, std::string_view pointer) {
  const Json* at = &root;
  while (!pointer.empty()) {
    if (pointer.front() != '/') return nullptr;
    pointer.remove_prefix(1);
    const std::string_view part = pointer.substr(0, pointer.find('/'));
    pointer.remove_prefix(part.size());
    if (at->is_array()) {
      size_t i = 0;
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), i);
      if (error != std::errc() || end != part.data() + part.size() || i >= at->size())
        return nullptr;
      at = &(*at)[i];
      continue;
    }
    const Json* next = nullptr;
    if (!at->is_object()) return nullptr;
    for (const auto& [key, entry] : at->items()) {
      const bool plain = key.find_first_of("~/") == std::string::npos;
      if (plain ? key == part : escaped(key) == part) next = &entry;
    }
    if (next == nullptr) return nullptr;
    at = next;
  }
  return at;
}

bool is_of_type(const Json& value, std::string_view type) {
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (!value.is_number()) return false;
  return type == "number" || value.is_number_integer() ||
         value.get<double>() == std::floor(value.get<double>());
}

// The types that a schema names; those that its keywords are about, where it names none.
std::vector<std::string> types_of(const Json& schema) {
  std::vector<std::string> out;
  if (const Json* type = json_member(schema, "type")) {
    if (type->is_string()) out.push_back(type->get<std::string>());
    for (const Json& each : *type)
      if (type->is_array() && each.is_string()) out.push_back(each.get<std::string>());
    return out;
  }
  for (const auto& [keywords, type] :
       {std::pair{kObjectKeywords, "object"}, std::pair{kArrayKeywords, "array"},
        std::pair{kStringKeywords, "string"}, std::pair{kNumberKeywords, "number"}}) {
    for (const auto& [key, unused] : schema.items())
      if (lists(keywords, key) && (out.empty() || out.back() != type)) out.emplace_back(type);
  }
  return out;
}

// minLength and the like: a count from 0 to kMaxCount.
Status read_count(const Json& schema, std::string_view path, std::string_view key,
                  std::optional<uint32_t>& out) {
  const Json* value = json_member(schema, key);
  if (value == nullptr) return {};
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= 0) || number != std::floor(number))
    return invalid(path, key, "must be a whole number from 0 on");
  if (number > kMaxCount) return unsupported(path, key, cat("must be at most ", kMaxCount));
  out = static_cast<uint32_t>(number);
  return {};
}

}  // namespace

SchemaCompiler::Place SchemaCompiler::Place::operator[](std::string_view key) const {
  return {*json_member(schema, key), cat(path, "/", escaped(key))};
}
SchemaCompiler::Place SchemaCompiler::Place::operator[](size_t i) const {
  return {schema[i], cat(path, "/", i)};
}

Result<uint32_t> SchemaCompiler::run(uint32_t from) {
  if (dump_json(root_).size() > kMaxSchemaBytes) {
    return fail(ErrorCode::kUnsupported,
                cat("format: the schema is longer than ", kMaxSchemaBytes, " bytes"));
  }
  TRY(const uint32_t to, value({root_, "#"}, from));
  while (!pending_.empty()) {
    const Pending next = std::move(pending_.back());
    pending_.pop_back();
    TRY(const uint32_t end, value(next.place, builder_.entry(next.rule)));
    builder_.skip(end, builder_.exit(next.rule));
  }
  return to;
}

Status SchemaCompiler::only(const Place& at, std::string_view known) const {
  for (const auto& [key, entry] : at.schema.items()) {
    if (lists(known, key) || lists(kAnnotations, key)) continue;
    if (key == "$id" && &at.schema == &root_) continue;
    if (key == "uniqueItems" && entry.is_boolean() && !entry.get<bool>()) continue;
    return unsupported(at.path, key, "is not supported here");
  }
  return {};
}

uint32_t SchemaCompiler::later(const Place& at) {
  const auto [found, made] = rules_.emplace(&at.schema, 0);
  if (made) {
    found->second = builder_.rule();
    pending_.push_back({at, found->second});
  }
  return found->second;
}

Result<uint32_t> SchemaCompiler::value(const Place& at, uint32_t from) {
  const Json& schema = at.schema;
  if (schema.is_boolean()) {
    if (!schema.get<bool>()) return invalid(at.path, "false", "allows no value");
    return builder_.call(from, any_value());
  }
  if (!schema.is_object()) {
    return fail(ErrorCode::kInvalidArgument,
                cat("format: the schema at ", printable(at.path, 256), " must be an object"));
  }
  if (schema.contains("$ref")) return reference(at, from);
  if (schema.contains("anyOf")) return any_of(at, from);
  if (const Json* all = json_member(schema, "allOf")) {
    TRY_VOID(only(at, " allOf "));
    if (!all->is_array() || all->size() != 1)
      return unsupported(at.path, "allOf", "is supported with one schema only");
    return value(at["allOf"][size_t{0}], from);
  }
  if (schema.contains("enum") || schema.contains("const")) return choices(at, from);

  if (const Json* type = json_member(schema, "type");
      type != nullptr && !type->is_string() && !type->is_array())
    return invalid(at.path, "type", "must be a type or a list of them");
  const std::vector<std::string> types = types_of(schema);
  std::string known = " type ";
  for (const std::string_view keywords :
       {kNumberKeywords, kStringKeywords, kArrayKeywords, kObjectKeywords})
    known.append(keywords);
  TRY_VOID(only(at, known));
  if (types.empty()) {
    if (schema.contains("type")) return invalid(at.path, "type", "must name a type");
    return builder_.call(from, any_value());
  }
  const uint32_t to = builder_.state();
  for (const std::string& type : types) {
    TRY(const uint32_t end, of_type(at, type, from));
    builder_.skip(end, to);
  }
  return to;
}

Result<uint32_t> SchemaCompiler::reference(const Place& at, uint32_t from) {
  TRY_VOID(only(at, " $ref "));
  const Json& ref = at.schema["$ref"];
  if (!ref.is_string()) return invalid(at.path, "$ref", "must be a text");
  const std::string_view text = ref.get_ref<const std::string&>();
  if (!text.starts_with('#') || text.contains('%') || (text.size() > 1 && text[1] != '/'))
    return unsupported(at.path, "$ref", "must point into the schema itself, like #/$defs/NAME");
  const Json* target = resolve(root_, text.substr(1));
  if (target == nullptr) return invalid(at.path, "$ref", "points nowhere");
  return builder_.call(from, later({*target, std::string(text)}));
}

Result<uint32_t> SchemaCompiler::any_of(const Place& at, uint32_t from) {
  TRY_VOID(only(at, " anyOf "));
  const Place list = at["anyOf"];
  if (!list.schema.is_array() || list.schema.empty())
    return invalid(at.path, "anyOf", "must be a list of schemas");
  const uint32_t to = builder_.state();
  for (size_t i = 0; i < list.schema.size(); ++i) {
    TRY(const uint32_t end, value(list[i], from));
    builder_.skip(end, to);
  }
  return to;
}

Result<uint32_t> SchemaCompiler::choices(const Place& at, uint32_t from) {
  TRY_VOID(only(at, " type enum const "));
  const Json* constant = json_member(at.schema, "const");
  const Json* list = json_member(at.schema, "enum");
  if (list != nullptr && (!list->is_array() || list->empty()))
    return invalid(at.path, "enum", "must be a list of values");
  const std::vector<std::string> types = types_of(at.schema);
  const bool typed = at.schema.contains("type");
  std::vector<std::string> words;
  const auto add = [&](const Json& value) {
    const bool fits = !typed || std::ranges::any_of(types, [&](const std::string& type) {
      return is_of_type(value, type);
    });
    const bool same = constant == nullptr || value == *constant;
    if (fits && same) words.push_back(notation_.literal(value));
  };
  if (list == nullptr) {
    add(*constant);
  } else {
    for (const Json& value : *list) add(value);
  }
  if (words.empty())
    return invalid(at.path, list == nullptr ? "const" : "enum", "allows no value of its type");
  return builder_.any_of(from, std::move(words));
}

Result<uint32_t> SchemaCompiler::of_type(const Place& at, std::string_view type, uint32_t from) {
  if (type == "string") return string(at, from);
  if (type == "number") return numeric(at, /*whole=*/false, from);
  if (type == "integer") return numeric(at, /*whole=*/true, from);
  if (type == "boolean") return builder_.any_of(from, {"true", "false"});
  if (type == "null") return builder_.literal(from, "null");
  if (type == "array") return array(at, from);
  if (type == "object") return object(at, from);
  return invalid(at.path, "type", cat("names no type: '", printable(type), "'"));
}

Result<uint32_t> SchemaCompiler::string(const Place& at, uint32_t from) {
  std::optional<uint32_t> least;
  std::optional<uint32_t> most;
  TRY_VOID(read_count(at.schema, at.path, "minLength", least));
  TRY_VOID(read_count(at.schema, at.path, "maxLength", most));
  std::string_view expression;
  std::string_view key;
  for (const std::string_view each : {"pattern", "format"}) {
    const Json* text = json_member(at.schema, each);
    if (text == nullptr) continue;
    if (!text->is_string()) return invalid(at.path, each, "must be a text");
    if (!key.empty() || least || most)
      return unsupported(at.path, each, "is not supported beside another limit of the text");
    key = each;
    expression = text->get_ref<const std::string&>();
  }
  if (key == "format") {
    const auto* known = std::ranges::find(kFormats, expression, &Format::name);
    if (known == std::end(kFormats)) {
      return unsupported(at.path, key,
                         cat("is not supported with the value '", printable(expression), "'"));
    }
    expression = known->pattern;
  }
  uint32_t to = notation_.quote(from);
  if (!key.empty()) {
    Result<uint32_t> matched = pattern(notation_, to, expression);
    if (!matched) {
      return refuse(matched.error().code, at.path, key, matched.error().message);
    }
    return notation_.quote(*matched);
  }
  const uint32_t first = least.value_or(0);
  if (most && *most < first) return invalid(at.path, "maxLength", "is less than 'minLength'");
  for (uint32_t i = 0; i < first && !builder_.full(); ++i) to = notation_.character(to);
  if (!most) return notation_.quote(notation_.characters(to));
  const uint32_t last = builder_.state();
  builder_.skip(to, last);
  for (uint32_t i = first; i < *most && !builder_.full(); ++i) {
    to = notation_.character(to);
    builder_.skip(to, last);
  }
  return notation_.quote(last);
}

Result<uint32_t> SchemaCompiler::numeric(const Place& at, bool whole, uint32_t from) {
  const double most = static_cast<double>(whole ? kMaxInteger : kMaxBound);
  double low = -most;
  double high = most;
  bool above_low = false;
  bool below_high = false;
  bool bounded = false;
  for (const auto& [key, upper, exclusive] :
       {std::tuple{"minimum", false, false}, std::tuple{"exclusiveMinimum", false, true},
        std::tuple{"maximum", true, false}, std::tuple{"exclusiveMaximum", true, true}}) {
    const Json* bound = json_member(at.schema, key);
    if (bound == nullptr) continue;
    if (!bound->is_number()) return invalid(at.path, key, "must be a number");
    bounded = true;
    double value = bound->get<double>();
    if (!whole && value != std::floor(value))
      return unsupported(at.path, key, "must be a whole number");
    // Of whole numbers the bound itself is the first or last that fits.
    if (whole && exclusive) {
      value = upper ? std::ceil(value) - 1 : std::floor(value) + 1;
    } else if (whole) {
      value = upper ? std::floor(value) : std::ceil(value);
    }
    const bool open = exclusive && !whole;
    if (upper && (value < high || (value == high && open))) {
      high = value;
      below_high = open;
    } else if (!upper && (value > low || (value == low && open))) {
      low = value;
      above_low = open;
    }
  }
  if (low > high || (low == high && (above_low || below_high)) || low > most || high < -most) {
    return invalid(at.path, whole ? "integer" : "number",
                   cat("has no value from its minimum to its maximum within ±", most));
  }
  if (whole) return integer(builder_, from, static_cast<int64_t>(low), static_cast<int64_t>(high));
  if (!bounded) return number(builder_, from);
  return number(builder_, from,
                {.low = static_cast<int64_t>(low),
                 .high = static_cast<int64_t>(high),
                 .above_low = above_low,
                 .below_high = below_high});
}

Result<uint32_t> SchemaCompiler::array(const Place& at, uint32_t from) {
  std::optional<uint32_t> least;
  std::optional<uint32_t> most;
  TRY_VOID(read_count(at.schema, at.path, "minItems", least));
  TRY_VOID(read_count(at.schema, at.path, "maxItems", most));
  const uint32_t first = least.value_or(0);
  if (most && *most < first) return invalid(at.path, "maxItems", "is less than 'minItems'");
  const bool empty = most == 0u;
  uint32_t rule = 0;
  if (!empty) rule = at.schema.contains("items") ? later(at["items"]) : any_value();

  const uint32_t to = builder_.state();
  const uint32_t open = notation_.space(builder_.byte(from, '['));
  const uint32_t close = builder_.state();
  builder_.bytes(close, ']', ']', to);
  if (first == 0) builder_.skip(open, close);
  if (empty) return to;
  uint32_t item = builder_.call(open, rule);
  for (uint32_t count = 1; !builder_.full(); ++count) {
    if (count >= first) builder_.skip(notation_.space(item), close);
    if (most && count >= *most) break;
    const uint32_t next = notation_.space(builder_.byte(item, ','));
    if (!most && count >= first) {
      builder_.call(next, rule, item);
      break;
    }
    item = builder_.call(next, rule);
  }
  return to;
}

Result<uint32_t> SchemaCompiler::object(const Place& at, uint32_t from) {
  static const Json kNone = Json::object();
  const Json* properties = json_member(at.schema, "properties");
  if (properties != nullptr && !properties->is_object())
    return invalid(at.path, "properties", "must be an object");
  if (properties == nullptr) properties = &kNone;
  std::vector<std::string> names;
  for (const auto& [name, unused] : properties->items()) names.push_back(name);
  if (notation_.is_call()) {
    // As the chat template shows calls to the model: sorted, whatever the case.
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    std::ranges::stable_sort(names, [&](const std::string& a, const std::string& b) {
      return std::ranges::lexicographical_compare(a, b, {}, lower, lower);
    });
  }
  std::vector<std::string> required;
  if (const Json* list = json_member(at.schema, "required")) {
    if (!list->is_array()) return invalid(at.path, "required", "must be a list of names");
    for (const Json& name : *list) {
      if (!name.is_string()) return invalid(at.path, "required", "must be a list of names");
      required.push_back(name.get<std::string>());
      if (!properties->contains(required.back())) {
        return unsupported(
            at.path, "required",
            cat("names '", printable(required.back()), "', which 'properties' does not have"));
      }
    }
    std::ranges::sort(required);
  }
  // What other members may hold: nothing where the schema does not say, unless it names none.
  const Json* others = json_member(at.schema, "additionalProperties");
  if (others != nullptr && !others->is_boolean() && !others->is_object())
    return invalid(at.path, "additionalProperties", "must be a schema");
  uint32_t other_rule = 0;
  if (others == nullptr ? names.empty() : *others != false) {
    other_rule =
        others == nullptr || others->is_boolean() ? any_value() : later(at["additionalProperties"]);
  }

  // `none` and `some`: the state before the next property, where no member has been written yet and
  // where one has.
  uint32_t none = notation_.space(builder_.byte(from, '{'));
  uint32_t some = builder_.state();
  const auto comma = [&](uint32_t state) { return notation_.space(builder_.byte(state, ',')); };
  for (const std::string& name : names) {
    if (builder_.full()) break;
    const uint32_t member = builder_.state();
    builder_.skip(none, member);
    builder_.skip(comma(some), member);
    const uint32_t colon = builder_.literal(member, notation_.key(name) + ":");
    TRY(const uint32_t end, value(at["properties"][name], notation_.space(colon)));
    const uint32_t next_none = builder_.state();
    const uint32_t next_some = builder_.state();
    builder_.skip(end, next_some);
    if (!std::ranges::binary_search(required, name)) {
      builder_.skip(none, next_none);
      builder_.skip(some, next_some);
    }
    none = next_none;
    some = next_some;
  }
  if (other_rule != 0) {
    const uint32_t member = builder_.state();
    builder_.skip(none, member);
    builder_.skip(comma(some), member);
    const uint32_t colon = builder_.byte(notation_.other_key(member, names), ':');
    builder_.skip(builder_.call(notation_.space(colon), other_rule), some);
  }
  const uint32_t to = builder_.state();
  builder_.bytes(none, '}', '}', to);
  builder_.bytes(notation_.space(some), '}', '}', to);
  return to;
}

uint32_t SchemaCompiler::any_object(uint32_t from) {
  const uint32_t rule = any_value();
  const uint32_t to = builder_.state();
  const uint32_t open = notation_.space(builder_.byte(from, '{'));
  const uint32_t close = builder_.state();
  builder_.bytes(close, '}', '}', to);
  builder_.skip(open, close);
  const uint32_t member = builder_.state();
  builder_.skip(open, member);
  const uint32_t colon = builder_.byte(notation_.other_key(member, {}), ':');
  const uint32_t end = builder_.call(notation_.space(colon), rule);
  builder_.skip(notation_.space(end), close);
  builder_.skip(notation_.space(builder_.byte(end, ',')), member);
  return to;
}

uint32_t SchemaCompiler::any_value() {
  if (any_value_ != 0) return any_value_;
  any_value_ = builder_.rule();
  const uint32_t entry = builder_.entry(any_value_);
  const uint32_t exit = builder_.exit(any_value_);
  builder_.skip(any_object(entry), exit);
  builder_.skip(notation_.string(entry), exit);
  builder_.skip(number(builder_, entry), exit);
  builder_.skip(builder_.any_of(entry, {"true", "false", "null"}), exit);
  const uint32_t open = notation_.space(builder_.byte(entry, '['));
  const uint32_t close = builder_.state();
  builder_.skip(open, close);
  const uint32_t end = builder_.call(open, any_value_);
  builder_.skip(notation_.space(end), close);
  builder_.call(notation_.space(builder_.byte(end, ',')), any_value_, end);
  builder_.bytes(close, ']', ']', exit);
  return any_value_;
}

}  // namespace lapidary::grammar
