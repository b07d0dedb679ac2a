#include "engine/generate/load_options.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/rope.h"
#include "engine/model/config.h"
#include "engine/model/decoder.h"

namespace lapidary::generate {
namespace {

// How long a load may look for faster cuts of kernels, in milliseconds: by default, and at most.
constexpr double kTuning = 300;
constexpr double kMaxTuning = 600'000;
constexpr uint32_t kMaxProcessors = 1024;
// Of cuts from a cache.
constexpr size_t kMaxCuts = 1024;
constexpr size_t kMaxCutKey = 256;
constexpr uint64_t kMaxCut = 1024;
// Tokens of a prompt in one submission; their activations are on the GPU at once.
constexpr uint32_t kMaxBatch = 4096;
constexpr double kMaxBytes = 9'007'199'254'740'992;  // a double counts no further

// A whole number from 1 to `most` in place of `out`, if there is one.
Status parse_count(const Json& json, std::string_view key, uint32_t most, uint32_t& out) {
  const Json* count = json_member(json, key);
  if (count == nullptr || count->is_null()) return {};
  const double value = count->is_number() ? count->get<double>() : NAN;
  if (!(value >= 1 && value <= most))
    return fail(ErrorCode::kInvalidArgument, cat(key, " must be a number from 1 to ", most));
  out = static_cast<uint32_t>(value);
  return {};
}

// {subgroups, dot: "f32" | "int16" | "int8", prefill: the same or "matrix"}
Status parse_variant(const Json& json, LoadOptions& out) {
  const auto bad = [] {
    return fail(
        ErrorCode::kInvalidArgument,
        "variant takes subgroups (true, false), dot (f32, int16, int8) and prefill (the same or "
        "matrix)");
  };
  if (!json.is_object()) return bad();
  if (const Json* subgroups = json_member(json, "subgroups")) {
    if (!subgroups->is_boolean()) return bad();
    out.variant.subgroups = subgroups->get<bool>();
  }
  const auto read_form = [&](std::string_view name, std::optional<kernels::Dot>& form) {
    const Json* text = json_member(json, name);
    if (text == nullptr) return true;
    for (const kernels::Dot value : kernels::kDots)
      if (*text == kernels::dot_name(value)) form = value;
    return form.has_value();
  };
  if (!read_form("dot", out.variant.dot) || !read_form("prefill", out.variant.prefill) ||
      out.variant.dot == kernels::Dot::kMatrix)
    return bad();
  return {};
}

// {key: [number, number, number]}. It comes from a cache that anybody may have written: entries of
// another shape are left out, and what does not fit a kernel is not used.
model::Cuts parse_cuts(const Json& json) {
  model::Cuts cuts;
  if (!json.is_object()) return cuts;
  for (const auto& [key, value] : json.items()) {
    model::Cut cut;
    std::vector<uint32_t*> numbers;
    for (uint32_t& number : cut.numbers) numbers.push_back(&number);
    if (value.size() != numbers.size()) numbers.insert(numbers.end(), {&cut.tried, &cut.needed_ms});
    bool good = value.is_array() && value.size() == numbers.size() && key.size() <= kMaxCutKey;
    for (size_t i = 0; good && i < numbers.size(); ++i) {
      const uint64_t most = numbers[i] == &cut.needed_ms ? UINT32_MAX : kMaxCut;
      good = value[i].is_number_unsigned() && value[i].get<uint64_t>() <= most;
      if (good) *numbers[i] = value[i].get<uint32_t>();
    }
    if (good && cuts.size() < kMaxCuts) cuts.emplace(key, cut);
  }
  return cuts;
}

}  // namespace

Result<LoadOptions> parse_load_options(const Json& json, uint32_t vocab) {
  LoadOptions out;
  TRY_VOID(parse_count(json, "contextLength", model::kMaxContext, out.context));
  if (const Json* type = json_member(json, "kvType"); type != nullptr && !type->is_null()) {
    const auto known = std::ranges::find_if(kernels::kKvTypes, [&](kernels::KvType each) {
      return *type == kernels::kv_type_name(each);
    });
    if (known == std::end(kernels::kKvTypes))
      return fail(ErrorCode::kInvalidArgument, "kvType must be f16, f32 or q8_0");
    out.kv_type = *known;
  }
  TRY_VOID(parse_count(json, "batchSize", kMaxBatch, out.batch));
  TRY_VOID(parse_count(json, "sessions", kernels::kMaxSequences, out.sessions));
  TRY_VOID(parse_count(json, "processors", kMaxProcessors, out.processors));
  if (const Json* cuts = json_member(json, "cuts")) out.cuts = parse_cuts(*cuts);
  if (const Json* tune = json_member(json, "tune"); tune != nullptr && !tune->is_null()) {
    const double ms = tune->is_number()    ? tune->get<double>()
                      : tune->is_boolean() ? (tune->get<bool>() ? kTuning : 0)
                                           : NAN;
    if (!(ms >= 0 && ms <= kMaxTuning)) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("tune must be true, false or milliseconds, at most ", kMaxTuning));
    }
    out.tuning_ms = ms;
  }
  if (const Json* place = json_member(json, "perLayerEmbeddings");
      place != nullptr && !place->is_null() && *place != "auto") {
    if (*place != "gpu" && *place != "source")
      return fail(ErrorCode::kInvalidArgument, "perLayerEmbeddings must be gpu, source or auto");
    out.per_layer = *place == "gpu" ? model::TablePlace::kGpu : model::TablePlace::kSource;
  }
  if (const Json* most = json_member(json, "gpuMemory"); most != nullptr && !most->is_null()) {
    const double bytes = most->is_number() ? most->get<double>() : NAN;
    if (!(bytes >= 1 && bytes <= kMaxBytes))
      return fail(ErrorCode::kInvalidArgument, "gpuMemory must be a number of bytes");
    out.gpu_memory = static_cast<uint64_t>(bytes);
  }
  if (const Json* like = json_member(json, "encoders"); like != nullptr && !like->is_null()) {
    if (*like != "transformers" && *like != "llama.cpp")
      return fail(ErrorCode::kInvalidArgument, "encoders must be transformers or llama.cpp");
    out.encoders_as_llama_cpp = *like == "llama.cpp";
  }
  TRY_VOID(parse_count(json, "projector", UINT32_MAX, out.projector));
  TRY_VOID(parse_count(json, "drafter", UINT32_MAX, out.drafter));
  TRY_VOID(parse_count(json, "draftTokens", model::kMaxDrafted, out.draft_tokens));
  if (const Json* optional = json_member(json, "drafterOptional"))
    out.drafter_optional = *optional == true;
  for (const auto& [key, target] : {std::pair{"name", &out.name}, std::pair{"system", &out.system},
                                    std::pair{"digest", &out.digest}}) {
    const Json* value = json_member(json, key);
    if (value != nullptr && value->is_string()) *target = value->get<std::string>();
  }
  if (const Json* variant = json_member(json, "variant"); variant != nullptr && !variant->is_null())
    TRY_VOID(parse_variant(*variant, out));
  if (const Json* params = json_member(json, "params"); params != nullptr && params->is_object()) {
    TRY(out.options, parse_options(*params, out.options, vocab));
    const Json* num_ctx = json_member(*params, "num_ctx");
    if (out.context == 0 && num_ctx != nullptr && num_ctx->is_number_unsigned()) {
      out.context =
          static_cast<uint32_t>(std::min<uint64_t>(num_ctx->get<uint64_t>(), model::kMaxContext));
    }
  }
  return out;
}

uint32_t usable_context(uint32_t wanted, const model::Config& config) {
  return std::min(
      {wanted == 0 ? kDefaultContext : wanted, config.context_length, kernels::kRopeMaxContext});
}

model::DecoderOptions decoder_options_of(const LoadOptions& options) {
  return {.context = options.context,
          .max_batch = options.batch,
          .kv_type = options.kv_type,
          .sequences = options.sessions,
          .cuts = options.cuts,
          .tuning_ms = options.tuning_ms,
          .processors = options.processors};
}

}  // namespace lapidary::generate
