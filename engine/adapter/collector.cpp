#include "engine/adapter/collector.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "engine/base/text.h"

namespace lapidary::adapter {
namespace {

// The output head sorts behind every layer.
constexpr uint32_t kHead = model::kMaxLayers;

std::unexpected<Error> invalid(const std::string& message) {
  return fail(ErrorCode::kInvalidFormat, cat("adapter: ", message));
}

}  // namespace

std::optional<uint32_t> parse_layer(std::string_view text) {
  uint32_t layer = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  const bool plain = error == std::errc() && at == text.data() + text.size() &&
                     (text.size() == 1 || text[0] != '0');
  return plain && layer < model::kMaxLayers ? std::optional(layer) : std::nullopt;
}

std::optional<float> float_alpha(double value) {
  const bool fits = std::abs(value) <= double{std::numeric_limits<float>::max()};
  return fits ? std::optional(static_cast<float>(value)) : std::nullopt;
}

Status Collector::add(const Target& target, std::string_view name, uint64_t rows, uint64_t columns,
                      std::vector<float> values) {
  const std::string where = cat("tensor '", printable(name, 128), "'");
  if (rows == 0 || columns == 0 || rows > UINT32_MAX || columns > UINT32_MAX) {
    return invalid(cat(where, " has shape [", rows, ", ", columns, "]"));
  }
  const uint32_t layer = target.role == model::TensorRole::kOutput ? kHead : target.layer;
  auto& [a, b] = matrices_[{layer, target.role}];
  Matrix& matrix = target.half == Half::kA ? a : b;
  if (matrix.there) return invalid(cat(where, " is there twice, or under two names"));
  const uint64_t rank = target.half == Half::kA ? rows : columns;
  if (rank > kMaxRank) {
    return fail(ErrorCode::kUnsupported, cat("adapter: ", where, " has rank ", rank, "; at most ",
                                             kMaxRank, " is supported"));
  }
  matrix = {true, static_cast<uint32_t>(rows), static_cast<uint32_t>(columns), std::move(values)};
  return {};
}

Result<std::vector<LoraModule>> Collector::finish() && {
  if (matrices_.empty()) return invalid("it changes no matrix");
  std::vector<LoraModule> modules;
  modules.reserve(matrices_.size());
  for (auto& [key, pair] : matrices_) {
    auto& [a, b] = pair;
    LoraModule module{.layer = key.first == kHead ? 0 : key.first,
                      .role = key.second,
                      .rank = a.rows,
                      .inputs = a.columns,
                      .outputs = b.rows};
    if (!a.there || !b.there) {
      return invalid(cat(module_name(module), " has no ", a.there ? "B" : "A"));
    }
    if (a.rows != b.columns) {
      return invalid(cat(module_name(module), ": A has rank ", a.rows, ", but B ", b.columns));
    }
    module.a = std::move(a.values);
    module.b = std::move(b.values);
    modules.push_back(std::move(module));
  }
  return modules;
}

}  // namespace lapidary::adapter
