// Adapters merged into a model's file, as a stream of the new file's bytes: no more of either file
// than a piece is in memory at a time.
#pragma once

#include <memory>
#include <vector>

#include "engine/adapter/merge.h"
#include "engine/base/json.h"
#include "engine/generate/text_model.h"

namespace lapidary::generate {

class Merge {
 public:
  // source: of the model, open as long as the merge is read. options: {adapters: [{source, config,
  // scale}], type, digest}; config and scale as in Adapters::load, type "keep" or the name of a
  // type that gguf/encode.h can write, digest of the model's file. Errors of the readers, of
  // adapter::check_digest and of MergePlan::make; kInvalidArgument: unusable options.
  static Task<Result<std::shared_ptr<Merge>>> open(uint32_t source, Json options,
                                                   Cancelled cancelled);

  // {bytes: of the merged file, matrices: [{name, from, to}]}: names of types as "Q4_K".
  Json describe() const;
  // The next bytes, in order; none at the end. kBusy: the piece before it is not there yet.
  // Errors: of the source, of merge_rows; kCancelled. After an error the merge is of no use.
  Task<Result<std::vector<std::byte>>> read(Cancelled cancelled);
  // {kept, error} of the changes made so far: the part of the change that the written weights have
  // (1: all of it), and the size of what is wrong about them, relative to the change.
  Json report() const;

 private:
  Merge(uint32_t source, adapter::MergePlan plan) : source_(source), plan_(std::move(plan)) {}
  Task<Result<std::vector<std::byte>>> next(Cancelled cancelled);

  uint32_t source_;
  adapter::MergePlan plan_;
  adapter::MergeMeasure measure_;
  bool reading_ = false;
  uint64_t header_done_ = 0;
  size_t tensor_ = 0;   // that is next
  uint64_t taken_ = 0;  // of the tensor's bytes in the base
};

}  // namespace lapidary::generate
