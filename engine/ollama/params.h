// Ollama's params layer: the sampler defaults that a model's maker chose.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/json.h"

namespace lapidary::ollama {

// What is unset was not given (or was given as "up to you": num_predict or seed below 0).
struct Params {
  std::optional<double> temperature;        // >= 0; 0 is greedy
  std::optional<uint32_t> top_k;            // 0: no limit
  std::optional<double> top_p;              // 0 … 1
  std::optional<double> min_p;              // 0 … 1
  std::optional<double> repeat_penalty;     // > 0; 1 is none
  std::optional<int32_t> repeat_last_n;     // tokens; 0 none, -1 the whole context
  std::optional<double> presence_penalty;   // finite
  std::optional<double> frequency_penalty;  // finite
  std::optional<uint32_t> seed;
  std::optional<uint32_t> num_predict;  // tokens, > 0
  std::optional<uint32_t> num_ctx;      // tokens, > 0
  std::vector<std::string> stop;        // at most 64, none empty, at most 1 KiB each
  std::vector<std::string> ignored;     // keys that mean nothing to us, such as num_gpu
};

// Reads the layer's JSON object. A known key with an unusable value is kInvalidFormat, naming it;
// an unknown key is listed in `ignored`.
Result<Params> read_params(const Json& json);
Result<Params> parse_params(std::string_view json);

// Under the names that generation options have: temperature, topK, topP, minP, repeatPenalty,
// repeatLastN, presencePenalty, frequencyPenalty, seed, maxTokens, contextLength, stop. Unset ones
// are left out.
Json to_json(const Params& params);

}  // namespace lapidary::ollama
