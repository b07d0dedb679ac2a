#include "engine/dataset/dataset.h"

#include "engine/base/text.h"

namespace lapidary::dataset {
namespace {

constexpr uint32_t kLearn = 1u << 31;

}  // namespace

Example Dataset::example(size_t i) const {
  const std::vector<uint32_t>& stored = examples_[i].tokens;
  Example example;
  example.tokens.reserve(stored.size() - 1);
  example.targets.reserve(stored.size() - 1);
  for (size_t t = 0; t + 1 < stored.size(); ++t) {
    example.tokens.push_back(stored[t] & ~kLearn);
    const uint32_t next = stored[t + 1];
    example.targets.push_back((next & kLearn) != 0 ? next & ~kLearn : kUnsupervised);
  }
  return example;
}

Result<bool> Dataset::add(const LabelledTokens& sequence, uint64_t line) {
  if (sequence.tokens.size() != sequence.learn.size()) {
    return fail(ErrorCode::kInvalidArgument,
                cat(sequence.tokens.size(), " tokens have ", sequence.learn.size(), " labels"));
  }
  size_t end = sequence.tokens.size();
  while (end > 1 && !sequence.learn[end - 1]) --end;
  if (end <= 1) return false;
  if (examples_.size() >= kMaxExamples || end - 1 > max_positions_ - positions_) {
    return fail(ErrorCode::kUnsupported,
                cat("more data than fits into memory (", max_positions_, " tokens, ", kMaxExamples,
                    " examples): use a part of it"));
  }
  Stored stored{.line = line};
  stored.tokens.reserve(end);
  for (size_t t = 0; t < end; ++t) {
    const uint32_t token = sequence.tokens[t];
    if (token >= kLearn) return fail(ErrorCode::kInvalidArgument, cat(token, " is no token"));
    const bool learn = t > 0 && sequence.learn[t];
    stored.supervised += learn ? 1 : 0;
    stored.tokens.push_back(learn ? token | kLearn : token);
  }
  positions_ += end - 1;
  supervised_ += stored.supervised;
  examples_.push_back(std::move(stored));
  return true;
}

}  // namespace lapidary::dataset
