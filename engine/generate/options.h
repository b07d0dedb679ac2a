// What a caller may ask of one generation. Names and meanings are those of Ollama and llama.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/json.h"

namespace lapidary::generate {

struct SamplingOptions {
  float temperature = 1.0f;  // 0: greedy
  uint32_t top_k = 64;       // 0: off
  float top_p = 0.95f;       // 1: off
  float min_p = 0.0f;        // 0: off
  float repeat_penalty = 1.0f;
  uint32_t repeat_last_n = 64;  // tokens that the three penalties look back on, prompt included
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<uint32_t, float>> logit_bias;  // token id, added to its logit
  std::optional<uint64_t> seed;                        // absent: drawn by the host

  bool greedy() const { return temperature == 0.0f; }
  bool has_penalties() const {
    return repeat_last_n > 0 &&
           (repeat_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f);
  }
};

struct GenerateOptions {
  SamplingOptions sampling;
  std::vector<std::string> stop;
  uint32_t max_tokens = 0;  // 0: until a stop token or the end of the context
  bool ignore_eos = false;  // goes on past stop tokens: for benchmarks
  uint32_t logprobs = 0;    // alternatives reported beside each token; 0: none
  Json format;              // of the answer: null, "json", or a JSON schema (engine/grammar)
};

inline constexpr uint32_t kMaxLogprobs = 20;
inline constexpr uint32_t kMaxStops = 16;
inline constexpr size_t kMaxLogitBias = 1024;

// Reads options from JSON: camelCase members, or the snake_case names of an Ollama params layer.
// Members that are absent keep `defaults`; unknown members are ignored. kInvalidArgument names the
// member that is out of range.
Result<GenerateOptions> parse_options(const Json& json, const GenerateOptions& defaults,
                                      uint32_t vocab);

}  // namespace lapidary::generate
