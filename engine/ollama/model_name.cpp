// Ollama's model names: splitting, defaults, validation.
#include "engine/ollama/model_name.h"

#include "engine/base/text.h"

namespace lapidary::ollama {
namespace {

enum class Part { kHost, kNamespace, kModel, kTag };

struct PartRule {
  std::string_view name;
  size_t max_length;
  std::string_view punctuation;  // allowed after the first byte, beside letters, digits and '_'
};

PartRule rule_of(Part part) {
  switch (part) {
    case Part::kHost:
      return {"host", 350, "-.:"};
    case Part::kNamespace:
      return {"namespace", 80, "-"};
    case Part::kModel:
      return {"model", 80, "-."};
    case Part::kTag:
      return {"tag", 80, "-."};
  }
  __builtin_unreachable();
}

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

Status check_part(Part part, std::string_view text, std::string_view whole) {
  const PartRule rule = rule_of(part);
  const auto refuse = [&](std::string_view why) {
    return fail(ErrorCode::kInvalidArgument,
                cat("model name '", printable(whole), "': the ", rule.name, " ", why));
  };
  if (text.empty()) return refuse("is empty");
  if (text.size() > rule.max_length)
    return refuse(cat("is longer than ", rule.max_length, " bytes"));
  if (!is_word(text.front())) return refuse("must begin with a letter, a digit or '_'");
  for (const char c : text) {
    if (!is_word(c) && !rule.punctuation.contains(c)) {
      return refuse(cat("holds '", printable(std::string_view(&c, 1)),
                        "'; letters, digits, '_' and '", rule.punctuation, "' are allowed"));
    }
  }
  return {};
}

}  // namespace

std::string ModelName::path() const { return cat(host, "/", name_space, "/", model, "/", tag); }

std::string ModelName::display() const {
  std::string out;
  if (host != kDefaultHost) {
    out = cat(host, "/", name_space, "/");
  } else if (name_space != kDefaultNamespace) {
    out = cat(name_space, "/");
  }
  return cat(out, model, ":", tag);
}

Result<ModelName> parse_model_name(std::string_view text) {
  const std::string_view whole = text;
  if (const size_t scheme = text.find("://"); scheme != text.npos) text.remove_prefix(scheme + 3);

  ModelName name{std::string(kDefaultHost), std::string(kDefaultNamespace), "",
                 std::string(kDefaultTag)};
  // A ':' before the last '/' belongs to the host's port, not to the tag.
  const size_t last_slash = text.rfind('/');
  const size_t colon = text.rfind(':');
  if (colon != text.npos && (last_slash == text.npos || colon > last_slash)) {
    name.tag = text.substr(colon + 1);
    text = text.substr(0, colon);
  }
  name.model = last_slash == text.npos ? text : text.substr(last_slash + 1);
  if (last_slash != text.npos) {
    const std::string_view before = text.substr(0, last_slash);
    const size_t slash = before.rfind('/');
    name.name_space = slash == before.npos ? before : before.substr(slash + 1);
    if (slash != before.npos) name.host = before.substr(0, slash);
  }
  TRY_VOID(check_part(Part::kModel, name.model, whole));
  TRY_VOID(check_part(Part::kTag, name.tag, whole));
  TRY_VOID(check_part(Part::kNamespace, name.name_space, whole));
  TRY_VOID(check_part(Part::kHost, name.host, whole));
  return name;
}

Json to_json(const ModelName& name) {
  return Json{{"host", name.host}, {"namespace", name.name_space}, {"model", name.model},
              {"tag", name.tag},   {"path", name.path()},          {"display", name.display()}};
}

}  // namespace lapidary::ollama
