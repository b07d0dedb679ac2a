#include "engine/generate/options.h"

#include <cmath>

#include "engine/base/text.h"

namespace lapidary::generate {
namespace {

// The member under either of its two names.
const Json* either(const Json& json, std::string_view camel, std::string_view snake) {
  const Json* value = json_member(json, camel);
  if (value == nullptr) value = json_member(json, snake);
  return value != nullptr && value->is_null() ? nullptr : value;
}

Status read_number(const Json& json, std::string_view camel, std::string_view snake, double low,
                   double high, float& out) {
  const Json* value = either(json, camel, snake);
  if (value == nullptr) return {};
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= low && number <= high)) {
    return fail(ErrorCode::kInvalidArgument,
                cat("option '", camel, "' must be a number from ", low, " to ", high));
  }
  out = static_cast<float>(number);
  return {};
}

// A count; -1 and other negatives mean `negative` where the field allows them.
Status read_count(const Json& json, std::string_view camel, std::string_view snake,
                  uint32_t negative, uint32_t& out) {
  const Json* value = either(json, camel, snake);
  if (value == nullptr) return {};
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= -1e9 && number <= 4e9) || number != std::floor(number)) {
    return fail(ErrorCode::kInvalidArgument, cat("option '", camel, "' must be a whole number"));
  }
  out = number < 0 ? negative : static_cast<uint32_t>(number);
  return {};
}

Status read_stops(const Json& json, std::vector<std::string>& out) {
  const Json* value = either(json, "stop", "stop");
  if (value == nullptr) return {};
  out.clear();
  const auto add = [&](const Json& item) {
    if (item.is_string() && !item.get_ref<const std::string&>().empty())
      out.push_back(item.get<std::string>());
    return item.is_string();
  };
  bool valid = value->is_array() || value->is_string();
  if (value->is_string()) {
    add(*value);
  } else if (value->is_array()) {
    for (const Json& item : *value) valid = valid && add(item);
  }
  if (!valid || out.size() > kMaxStops) {
    return fail(ErrorCode::kInvalidArgument,
                cat("option 'stop' must be a string or up to ", kMaxStops, " strings"));
  }
  return {};
}

Status read_bias(const Json& json, uint32_t vocab, std::vector<std::pair<uint32_t, float>>& out) {
  const Json* value = either(json, "logitBias", "logit_bias");
  if (value == nullptr) return {};
  const auto bad = [] {
    return fail(
        ErrorCode::kInvalidArgument,
        "option 'logitBias' must be an object of token ids below the vocabulary's size and numbers "
        "from -100 to 100");
  };
  if (!value->is_object() || value->size() > kMaxLogitBias) return bad();
  out.clear();
  for (const auto& [key, bias] : value->items()) {
    uint32_t id = 0;
    const auto [end, ec] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (ec != std::errc() || end != key.data() + key.size() || id >= vocab || !bias.is_number())
      return bad();
    const double number = bias.get<double>();
    if (!(number >= -100 && number <= 100)) return bad();
    out.emplace_back(id, static_cast<float>(number));
  }
  return {};
}

}  // namespace

Result<GenerateOptions> parse_options(const Json& json, const GenerateOptions& defaults,
                                      uint32_t vocab) {
  if (!json.is_object()) return fail(ErrorCode::kInvalidArgument, "options must be an object");
  GenerateOptions out = defaults;
  SamplingOptions& s = out.sampling;
  TRY_VOID(read_number(json, "temperature", "temperature", 0, 100, s.temperature));
  TRY_VOID(read_number(json, "topP", "top_p", 0, 1, s.top_p));
  TRY_VOID(read_number(json, "minP", "min_p", 0, 1, s.min_p));
  TRY_VOID(read_number(json, "repeatPenalty", "repeat_penalty", 0.01, 100, s.repeat_penalty));
  TRY_VOID(read_number(json, "presencePenalty", "presence_penalty", -100, 100, s.presence_penalty));
  TRY_VOID(
      read_number(json, "frequencyPenalty", "frequency_penalty", -100, 100, s.frequency_penalty));
  TRY_VOID(read_count(json, "topK", "top_k", 0, s.top_k));
  TRY_VOID(read_count(json, "repeatLastN", "repeat_last_n", UINT32_MAX, s.repeat_last_n));
  TRY_VOID(read_count(json, "maxTokens", "num_predict", 0, out.max_tokens));
  TRY_VOID(read_count(json, "logprobs", "logprobs", 0, out.logprobs));
  if (out.logprobs > kMaxLogprobs) {
    return fail(ErrorCode::kInvalidArgument,
                cat("option 'logprobs' must be at most ", kMaxLogprobs));
  }
  if (const Json* seed = either(json, "seed", "seed")) {
    if (!seed->is_number_integer())
      return fail(ErrorCode::kInvalidArgument, "option 'seed' must be a whole number");
    // Ollama's -1: drawn anew each time.
    if (seed->is_number_unsigned() || seed->get<int64_t>() >= 0) {
      s.seed = seed->get<uint64_t>();
    } else {
      s.seed.reset();
    }
  }
  if (const Json* ignore = either(json, "ignoreEos", "ignore_eos")) {
    if (!ignore->is_boolean())
      return fail(ErrorCode::kInvalidArgument, "option 'ignoreEos' must be true or false");
    out.ignore_eos = ignore->get<bool>();
  }
  if (const Json* format = either(json, "format", "format")) {
    out.format = *format;
    if (out.ignore_eos) {
      return fail(ErrorCode::kInvalidArgument,
                  "option 'ignoreEos' goes on past an answer's end, which 'format' forbids");
    }
  }
  TRY_VOID(read_stops(json, out.stop));
  TRY_VOID(read_bias(json, vocab, s.logit_bias));
  return out;
}

}  // namespace lapidary::generate
