#include "engine/chat/prompt_writer.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/base/text.h"
#include "engine/chat/tags.h"

namespace lapidary::chat {
namespace {

std::string ascii_case(std::string_view text, char first, char last) {
  std::string out(text);
  for (char& c : out) {
    if (c >= first && c <= last) c = static_cast<char>(c ^ 0x20);
  }
  return out;
}
std::string upper(std::string_view text) { return ascii_case(text, 'a', 'z'); }
std::string lower(std::string_view text) { return ascii_case(text, 'A', 'Z'); }

// Jinja's dictsort: by key, ignoring case; equal keys keep their order.
std::vector<Json::const_iterator> sorted_members(const Json& object) {
  std::vector<std::pair<std::string, Json::const_iterator>> keyed;
  for (auto it = object.begin(); it != object.end(); ++it) keyed.emplace_back(lower(it.key()), it);
  std::ranges::stable_sort(keyed, {},
                           [](const auto& entry) -> const std::string& { return entry.first; });
  std::vector<Json::const_iterator> members;
  for (auto& [key, it] : keyed) members.push_back(it);
  return members;
}

// What a template's `if` takes for true.
bool truthy(const Json* value) {
  if (value == nullptr || value->is_null()) return false;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_string()) return !value->get_ref<const std::string&>().empty();
  if (value->is_number()) return value->get<double>() != 0;
  return !value->empty();
}

bool is_type(const Json* type, std::string_view name) {
  return type != nullptr && type->is_string() && upper(type->get_ref<const std::string&>()) == name;
}

bool is_standard_key(std::string_view key) {
  return key == "description" || key == "type" || key == "properties" || key == "required" ||
         key == "nullable";
}

}  // namespace

std::string format_float(double value) {
  if (!std::isfinite(value)) return "null";  // JSON holds no such number
  char digits[40];
  const auto end =
      std::to_chars(digits, digits + sizeof digits, value, std::chars_format::scientific).ptr;
  const std::string_view shortest(digits, static_cast<size_t>(end - digits));
  const size_t e = shortest.find('e');
  int exponent = 0;
  const char* begin = shortest.data() + e + (shortest[e + 1] == '+' ? 2 : 1);
  std::from_chars(begin, end, exponent);
  if (exponent < -4 || exponent >= 16) return std::string(shortest);
  const auto fixed =
      std::to_chars(digits, digits + sizeof digits, value, std::chars_format::fixed).ptr;
  std::string out(digits, static_cast<size_t>(fixed - digits));
  if (out.find('.') == std::string::npos) out.append(".0");
  return out;
}

void PromptWriter::append(std::string_view text, bool special) {
  if (text.empty()) return;
  if (pieces_.empty() || pieces_.back().special != special || pieces_.back().learn != learn_ ||
      !pieces_.back().medium.empty()) {
    pieces_.push_back({{}, special, learn_});
  }
  pieces_.back().text.append(text);
}

void PromptWriter::medium(const ContentPart& part) {
  const std::string_view text = part.kind == PartKind::kImage   ? kImage
                                : part.kind == PartKind::kAudio ? kAudio
                                                                : kVideo;
  if (part.medium.empty()) return tag(text);
  pieces_.push_back({std::string(text), true, learn_, part.medium});
}

void PromptWriter::quoted(std::string_view content) {
  tag(kQuote);
  text(content);
  tag(kQuote);
}

void PromptWriter::value(const Json& value, bool quote_keys) {
  switch (value.type()) {
    case Json::value_t::string:
      return quoted(value.get_ref<const std::string&>());
    case Json::value_t::boolean:
      return text(value.get<bool>() ? "true" : "false");
    case Json::value_t::number_integer:
      return text(cat(value.get<int64_t>()));
    case Json::value_t::number_unsigned:
      return text(cat(value.get<uint64_t>()));
    case Json::value_t::number_float:
      return text(format_float(value.get<double>()));
    case Json::value_t::object:
      text("{");
      members(value, quote_keys);
      return text("}");
    case Json::value_t::array:
      text("[");
      for (size_t i = 0; i < value.size(); ++i) {
        if (i != 0) text(",");
        this->value(value[i], quote_keys);
      }
      return text("]");
    case Json::value_t::null:
    case Json::value_t::binary:
    case Json::value_t::discarded:
      return text("null");
  }
}

void PromptWriter::members(const Json& object, bool quote_keys) {
  bool first = true;
  for (const auto& member : sorted_members(object)) {
    if (!first) text(",");
    first = false;
    if (quote_keys) {
      quoted(member.key());
    } else {
      text(member.key());
    }
    text(":");
    value(member.value(), quote_keys);
  }
}

// "type:" and a name in upper case, or a list of such for a union.
void PromptWriter::type(const Json* type) {
  text("type:");
  if (type != nullptr && type->is_array()) {
    text("[");
    for (size_t i = 0; i < type->size(); ++i) {
      if (i != 0) text(",");
      quoted((*type)[i].is_string() ? upper((*type)[i].get_ref<const std::string&>())
                                    : std::string());
    }
    return text("]");
  }
  quoted(type != nullptr && type->is_string() ? upper(type->get_ref<const std::string&>())
                                              : std::string());
}

void PromptWriter::quoted_list(const Json& list) {
  text("[");
  bool first = true;
  for (const Json& item : list) {
    if (!first) text(",");
    first = false;
    quoted(item.is_string() ? item.get_ref<const std::string&>() : dump_json(item));
  }
  text("]");
}

void PromptWriter::items(const Json& items) {
  text("items:{");
  bool first = true;
  for (const auto& member : sorted_members(items)) {
    const Json& entry = member.value();
    if (entry.is_null()) continue;
    if (!first) text(",");
    first = false;
    if (member.key() == "properties") {
      text("properties:{");
      if (entry.is_object()) properties(entry, false);
      text("}");
    } else if (member.key() == "required" && entry.is_array()) {
      text("required:");
      quoted_list(entry);
    } else if (member.key() == "type") {
      type(&entry);
    } else {
      text(member.key());
      text(":");
      value(entry, /*quote_keys=*/true);
    }
  }
  text("}");
}

// The inside of key:{…}, from the description to the type.
void PromptWriter::property(const Json& schema) {
  const Json* kind = json_member(schema, "type");
  if (const Json* description = json_member(schema, "description");
      truthy(description) && description->is_string()) {
    text("description:");
    quoted(description->get_ref<const std::string&>());
    text(",");
  }
  if (const Json* choices = json_member(schema, "enum");
      is_type(kind, "STRING") && truthy(choices)) {
    text("enum:");
    value(*choices, /*quote_keys=*/true);
    text(",");
  }
  if (const Json* entries = json_member(schema, "items");
      is_type(kind, "ARRAY") && truthy(entries) && entries->is_object()) {
    items(*entries);
    text(",");
  }
  if (truthy(json_member(schema, "nullable"))) text("nullable:true,");
  if (is_type(kind, "OBJECT")) {
    const Json* inner = json_member(schema, "properties");
    const bool has_properties = inner != nullptr && inner->is_object();
    text("properties:{");
    properties(has_properties ? *inner : schema, !has_properties);
    text("},");
    if (const Json* required = json_member(schema, "required");
        truthy(required) && required->is_array()) {
      text("required:");
      quoted_list(*required);
      text(",");
    }
  }
  type(kind);
}

void PromptWriter::properties(const Json& object, bool skip_standard_keys) {
  bool first = true;
  for (const auto& member : sorted_members(object)) {
    if (skip_standard_keys && is_standard_key(member.key())) continue;
    if (!first) text(",");
    first = false;
    text(member.key());
    text(":{");
    property(member.value());
    text("}");
  }
}

void PromptWriter::declaration(const ToolDeclaration& tool) {
  tag(cat(kToolOpen, "declaration:"));
  text(tool.name);
  text("{description:");
  quoted(tool.description);
  if (truthy(&tool.parameters)) {
    text(",parameters:{");
    if (const Json* inner = json_member(tool.parameters, "properties");
        truthy(inner) && inner->is_object()) {
      text("properties:{");
      properties(*inner, false);
      text("},");
    }
    if (const Json* required = json_member(tool.parameters, "required");
        truthy(required) && required->is_array()) {
      text("required:");
      quoted_list(*required);
      text(",");
    }
    const Json* kind = json_member(tool.parameters, "type");
    static const Json kObject = "object";
    type(truthy(kind) ? kind : &kObject);
    text("}");
  }
  if (truthy(&tool.response)) {
    text(",response:{");
    if (const Json* description = json_member(tool.response, "description");
        truthy(description) && description->is_string()) {
      text("description:");
      quoted(description->get_ref<const std::string&>());
      text(",");
    }
    type(json_member(tool.response, "type"));
    text("}");
  }
  text("}");
  tag(kToolClose);
}

}  // namespace lapidary::chat
