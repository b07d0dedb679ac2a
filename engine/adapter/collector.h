// Pairs the A and B matrices of a file into modules, whatever order they come in.
#pragma once

#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "engine/adapter/adapter.h"

namespace lapidary::adapter {

enum class Half : uint8_t { kA, kB };

// Which matrix a tensor's name means.
struct Target {
  uint32_t layer = 0;
  model::TensorRole role = model::TensorRole::kOutput;
  Half half = Half::kA;
};

// "17" as a layer: decimal, without sign or leading zeros, below model::kMaxLayers; else nullopt.
std::optional<uint32_t> parse_layer(std::string_view text);

// A file's alpha as a float; nullopt where no float holds it. check() refuses what is not positive.
std::optional<float> float_alpha(double value);

class Collector {
 public:
  // A row-major [rows, columns] matrix; `name` is its name in the file, for messages.
  // kInvalidFormat: there twice, or sizes that cannot be.
  Status add(const Target& target, std::string_view name, uint64_t rows, uint64_t columns,
             std::vector<float> values);

  // The modules in order, with no alpha yet. kInvalidFormat if there are none, an A or a B is
  // missing or their ranks differ.
  Result<std::vector<LoraModule>> finish() &&;

 private:
  struct Matrix {
    bool there = false;
    uint32_t rows = 0, columns = 0;
    std::vector<float> values;
  };
  std::map<std::pair<uint32_t, model::TensorRole>, std::pair<Matrix, Matrix>> matrices_;
};

}  // namespace lapidary::adapter
