// Rows of a table that stays in its source: read as tokens need them, decoded on the CPU and
// written to the GPU, where a gather would have put them.
#pragma once

#include <span>

#include "engine/gpu/device.h"
#include "engine/model/row_cache.h"
#include "engine/model/weights.h"

namespace lapidary::model {

class RowSource {
 public:
  // scale: what every value is multiplied by.
  RowSource(const SourceTable& table, float scale);

  // Writes the rows of `tokens`, f32, one after another to the start of `out`. Equal tokens are
  // read once. An error of the source, or kInvalidArgument for a token that has no row, leaves
  // `out` written in part; no read is under way any more then. `tokens` must outlive the wait.
  Task<Status> gather(const gpu::Device& device, std::span<const uint32_t> tokens,
                      const gpu::Buffer& out);

 private:
  SourceTable table_;
  float scale_;
  RowCache cache_;
};

}  // namespace lapidary::model
