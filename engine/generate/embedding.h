// Embeddings: a text's hidden states after the model's last norm, pooled into one vector.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/json.h"

namespace lapidary::generate {

// kMean: of all positions. kLast: of the last, the only one that has seen the whole text. (The
// first one, which encoders pool by, has seen nothing but <bos> in a model that looks back only.)
enum class Pooling : uint8_t { kMean, kLast };

struct EmbeddingOptions {
  Pooling pooling = Pooling::kMean;
  bool normalize = true;    // to length 1, after dimensions are left out
  uint32_t dimensions = 0;  // only so many, the first ones; 0: all
  bool truncate = false;    // a text that is too long ends where the context does
};

// Of one request.
inline constexpr size_t kMaxEmbeddingInputs = 4096;

// {pooling: "mean" | "last", normalize, dimensions, truncate}. kInvalidArgument names the member
// that is none of this; `hidden` is how many dimensions there are.
Result<EmbeddingOptions> parse_embedding_options(const Json& json, uint32_t hidden);

// Gathers one text's hidden states, in double.
class Pool {
 public:
  Pool(Pooling pooling, uint32_t hidden) : pooling_(pooling), sum_(hidden) {}

  // rows: f32 [rows, hidden], the next positions.
  void add(std::span<const float> rows);
  // The embedding: f32 [dimensions]. kGpu: a hidden state that is not finite.
  Result<std::vector<float>> finish(const EmbeddingOptions& options) const;

 private:
  Pooling pooling_;
  std::vector<double> sum_;
  uint64_t rows_ = 0;
};

}  // namespace lapidary::generate
