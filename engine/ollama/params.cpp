// Ollama's params layer, checked key by key.
#include "engine/ollama/params.h"

#include <cmath>
#include <limits>

#include "engine/base/text.h"

namespace lapidary::ollama {
namespace {

constexpr size_t kMaxStops = 64;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxParamsBytes = 1 << 20;

std::unexpected<Error> refuse(std::string_view key, std::string_view why) {
  return fail(ErrorCode::kInvalidFormat, cat("params: '", printable(key), "' ", why));
}

Result<double> number(std::string_view key, const Json& value, double low, double high) {
  if (!value.is_number()) return refuse(key, "is not a number");
  const double x = value.get<double>();
  if (!std::isfinite(x)) return refuse(key, "is not finite");
  if (x < low || x > high) return refuse(key, cat("is ", x, ", outside ", low, " to ", high));
  return x;
}

// Ollama writes some whole numbers as 64.0.
Result<int64_t> whole(std::string_view key, const Json& value, int64_t low, int64_t high) {
  TRY(const double x, number(key, value, static_cast<double>(low), static_cast<double>(high)));
  if (x != std::floor(x)) return refuse(key, "is not a whole number");
  return static_cast<int64_t>(x);
}

Result<std::vector<std::string>> stops(const Json& value) {
  std::vector<std::string> out;
  const auto add = [&](const Json& item) -> Status {
    if (!item.is_string()) return refuse("stop", "holds something that is not a string");
    const auto& text = item.get_ref<const std::string&>();
    if (text.size() > kMaxStopBytes)
      return refuse("stop", cat("holds a string longer than ", kMaxStopBytes, " bytes"));
    // An empty stop string would stop everything before it began.
    if (!text.empty()) out.push_back(text);
    return {};
  };
  if (value.is_string()) {
    TRY_VOID(add(value));
    return out;
  }
  if (!value.is_array()) return refuse("stop", "is neither a string nor an array of strings");
  if (value.size() > kMaxStops)
    return refuse("stop", cat("holds more than ", kMaxStops, " strings"));
  for (const Json& item : value) TRY_VOID(add(item));
  return out;
}

}  // namespace

Result<Params> read_params(const Json& json) {
  if (!json.is_object()) return fail(ErrorCode::kInvalidFormat, "params: not a JSON object");
  constexpr double kHuge = 1e6;
  constexpr int64_t kMax = std::numeric_limits<uint32_t>::max();
  constexpr int64_t kMaxSigned = std::numeric_limits<int32_t>::max();
  Params params;
  for (const auto& [key, value] : json.items()) {
    if (value.is_null()) continue;
    if (key == "temperature") {
      TRY(params.temperature, number(key, value, 0, kHuge));
    } else if (key == "top_k") {
      // llama.cpp reads 0 and below as "no limit".
      TRY(const int64_t k, whole(key, value, -kMaxSigned, kMaxSigned));
      params.top_k = static_cast<uint32_t>(k < 0 ? 0 : k);
    } else if (key == "top_p") {
      TRY(params.top_p, number(key, value, 0, 1));
    } else if (key == "min_p") {
      TRY(params.min_p, number(key, value, 0, 1));
    } else if (key == "repeat_penalty") {
      TRY(const double penalty, number(key, value, 0, kHuge));
      if (penalty == 0) return refuse(key, "is 0, which would divide by zero; 1 means none");
      params.repeat_penalty = penalty;
    } else if (key == "repeat_last_n") {
      TRY(const int64_t n, whole(key, value, -1, kMaxSigned));
      params.repeat_last_n = static_cast<int32_t>(n);
    } else if (key == "presence_penalty") {
      TRY(params.presence_penalty, number(key, value, -kHuge, kHuge));
    } else if (key == "frequency_penalty") {
      TRY(params.frequency_penalty, number(key, value, -kHuge, kHuge));
    } else if (key == "seed") {
      TRY(const int64_t seed, whole(key, value, -kMaxSigned, kMax));
      if (seed >= 0) params.seed = static_cast<uint32_t>(seed);
    } else if (key == "num_predict") {
      TRY(const int64_t n, whole(key, value, -kMaxSigned, kMaxSigned));
      if (n > 0) params.num_predict = static_cast<uint32_t>(n);
    } else if (key == "num_ctx") {
      TRY(const int64_t n, whole(key, value, 0, kMaxSigned));
      if (n > 0) params.num_ctx = static_cast<uint32_t>(n);
    } else if (key == "stop") {
      TRY(params.stop, stops(value));
    } else {
      params.ignored.push_back(key);
    }
  }
  return params;
}

Result<Params> parse_params(std::string_view text) {
  if (text.size() > kMaxParamsBytes)
    return fail(ErrorCode::kInvalidFormat, cat("params: ", text.size(), " bytes"));
  TRY(const Json json, parse_json(text, "params", 8));
  return read_params(json);
}

Json to_json(const Params& params) {
  Json out = Json::object();
  const auto put = [&](const char* key, const auto& value) {
    if (value) out[key] = *value;
  };
  put("temperature", params.temperature);
  put("topK", params.top_k);
  put("topP", params.top_p);
  put("minP", params.min_p);
  put("repeatPenalty", params.repeat_penalty);
  put("repeatLastN", params.repeat_last_n);
  put("presencePenalty", params.presence_penalty);
  put("frequencyPenalty", params.frequency_penalty);
  put("seed", params.seed);
  put("maxTokens", params.num_predict);
  put("contextLength", params.num_ctx);
  if (!params.stop.empty()) out["stop"] = params.stop;
  return out;
}

}  // namespace lapidary::ollama
