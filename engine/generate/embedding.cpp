#include "engine/generate/embedding.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"

namespace lapidary::generate {
namespace {

Status parse_flag(const Json& json, std::string_view key, bool& out) {
  const Json* value = json_member(json, key);
  if (value == nullptr || value->is_null()) return {};
  if (!value->is_boolean())
    return fail(ErrorCode::kInvalidArgument, cat(key, " must be true or false"));
  out = value->get<bool>();
  return {};
}

}  // namespace

Result<EmbeddingOptions> parse_embedding_options(const Json& json, uint32_t hidden) {
  EmbeddingOptions out;
  TRY_VOID(parse_flag(json, "normalize", out.normalize));
  TRY_VOID(parse_flag(json, "truncate", out.truncate));
  if (const Json* pooling = json_member(json, "pooling");
      pooling != nullptr && !pooling->is_null()) {
    if (*pooling != "mean" && *pooling != "last")
      return fail(ErrorCode::kInvalidArgument, "pooling must be mean or last");
    out.pooling = *pooling == "mean" ? Pooling::kMean : Pooling::kLast;
  }
  if (const Json* count = json_member(json, "dimensions"); count != nullptr && !count->is_null()) {
    if (!count->is_number_unsigned() || *count < 1u || *count > hidden) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("dimensions must be a whole number from 1 to ", hidden,
                      ", the width of the model's hidden states"));
    }
    out.dimensions = count->get<uint32_t>();
  }
  return out;
}

void Pool::add(std::span<const float> rows) {
  const size_t hidden = sum_.size();
  const size_t count = rows.size() / hidden;
  if (pooling_ == Pooling::kLast) {
    std::ranges::copy(rows.last(hidden), sum_.begin());
    rows_ = 1;
    return;
  }
  for (size_t r = 0; r < count; ++r)
    for (size_t i = 0; i < hidden; ++i) sum_[i] += rows[r * hidden + i];
  rows_ += count;
}

Result<std::vector<float>> Pool::finish(const EmbeddingOptions& options) const {
  const size_t kept = options.dimensions > 0 ? options.dimensions : sum_.size();
  double squares = 0;
  for (size_t i = 0; i < kept; ++i) squares += sum_[i] * sum_[i];
  double scale = 1.0 / static_cast<double>(rows_);
  if (options.normalize && squares > 0) scale = 1.0 / std::sqrt(squares);
  if (!std::isfinite(squares) || !std::isfinite(scale))
    return fail(ErrorCode::kGpu, "the GPU computed hidden states that are not finite");
  std::vector<float> out(kept);
  for (size_t i = 0; i < kept; ++i) out[i] = static_cast<float>(sum_[i] * scale);
  return out;
}

}  // namespace lapidary::generate
