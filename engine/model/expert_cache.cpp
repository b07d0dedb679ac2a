#include "engine/model/expert_cache.h"

#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/kernels/repack.h"

namespace lapidary::model {
namespace {

// Bytes of a tensor that one piece brings to the GPU: an expert's, mostly.
constexpr uint64_t kMostPiece = 8 << 20;

uint64_t piece_bytes(std::span<const std::vector<ExpertTensor>> layers) {
  uint64_t widest = 0, largest = 0;
  for (const std::vector<ExpertTensor>& tensors : layers) {
    for (const ExpertTensor& tensor : tensors) {
      const uint64_t row = kernels::file_row_bytes(tensor.codec, tensor.cols);
      widest = std::max(widest, row);
      largest = std::max(largest, row * tensor.rows);
    }
  }
  return std::max(widest, std::min(largest, kMostPiece));
}

}  // namespace

uint64_t ExpertCache::staging_bytes(std::span<const std::vector<ExpertTensor>> layers) {
  return PieceUpload::bytes(kPiecesAtOnce, piece_bytes(layers));
}

Task<Result<std::unique_ptr<ExpertCache>>> ExpertCache::create(
    gpu::Device& device, kernels::KernelCache& cache, uint32_t source, uint32_t experts,
    uint32_t slots, std::vector<std::vector<ExpertTensor>> layers) {
  std::unique_ptr<ExpertCache> self(
      new ExpertCache(device, cache, source, slots, std::move(layers)));
  self->most_ = piece_bytes(self->layers_);
  self->kept_.assign(self->layers_.size(), ExpertSlots(experts, slots));
  for (std::vector<ExpertTensor>& tensors : self->layers_) {
    for (ExpertTensor& tensor : tensors)
      tensor.kernel = self->upload_.kernel(tensor.codec, tensor.cols);
  }
  CO_TRY_VOID(co_await self->upload_.allocate(self->most_));
  co_return std::move(self);
}

std::vector<std::vector<uint32_t>> ExpertCache::rounds(size_t layer,
                                                       std::span<const Route> routes) const {
  std::vector<uint32_t> needed;
  for (const Route& route : routes) needed.push_back(route.expert);
  std::vector<std::vector<uint32_t>> rounds;
  for (const uint32_t expert : kept_[layer].in_turn(std::move(needed))) {
    if (rounds.empty() || rounds.back().size() == slots_) rounds.emplace_back();
    rounds.back().push_back(expert);
  }
  return rounds;
}

std::vector<ExpertCache::Piece> ExpertCache::pieces(size_t layer,
                                                    std::span<const ExpertSlots::Placed> missing) {
  std::vector<Piece> out;
  for (const auto& [expert, slot] : missing) {
    for (size_t t = 0; t < layers_[layer].size(); ++t) {
      const ExpertTensor& tensor = layers_[layer][t];
      const uint64_t row_bytes = kernels::file_row_bytes(tensor.codec, tensor.cols);
      const uint64_t at = tensor.at + expert * tensor.rows * row_bytes;
      const auto part =
          std::ranges::find_if(tensor.parts, [&](const ExpertTensor::Part& candidate) {
            return slot - candidate.first < candidate.count;
          });
      const auto step = static_cast<uint32_t>(std::min<uint64_t>(most_ / row_bytes, tensor.rows));
      for (uint32_t row = 0; row < tensor.rows; row += step) {
        const uint32_t rows = std::min(step, tensor.rows - row);
        out.push_back({{.name = tensor.name,
                        .at = at + row * row_bytes,
                        .bytes = rows * row_bytes,
                        .codec = tensor.codec,
                        .cols = tensor.cols,
                        .row = (slot - part->first) * tensor.rows + row,
                        .rows = rows,
                        .all_rows = part->count * tensor.rows,
                        .target = part->target,
                        .offset = part->offset,
                        .kernel = tensor.kernel},
                       static_cast<uint32_t>(t),
                       static_cast<uint32_t>(part - tensor.parts.begin())});
      }
    }
  }
  // In the file's order, so that a disk or a server is read from front to back.
  std::ranges::sort(out, {}, [](const Piece& piece) { return piece.upload.at; });
  return out;
}

Task<Status> ExpertCache::load(size_t layer, std::span<const uint32_t> round) {
  ExpertSlots& kept = kept_[layer];
  const std::vector<ExpertSlots::Placed> missing = kept.place(round);
  hits_ += round.size() - missing.size();
  misses_ += missing.size();
  const std::vector<Piece> list = pieces(layer, missing);
  Status status;
  size_t next = 0, started = 0;
  while (status && next < list.size()) {
    for (; started < std::min(list.size(), next + kPiecesAtOnce); ++started)
      upload_.start(started, list[started].upload);
    const Piece& piece = list[next];
    gpu::Bindings& bindings =
        bindings_[Bound{static_cast<uint32_t>(layer), piece.tensor, piece.part,
                        static_cast<uint32_t>(next % kPiecesAtOnce)}];
    status = co_await upload_.take(next++, piece.upload, bindings);
  }
  if (status) co_return status;
  for (; next < started; ++next) co_await upload_.drop(next);
  for (const ExpertSlots::Placed& one : missing) kept.forget(one.expert);
  co_return status;
}

std::vector<ExpertCache::Route> ExpertCache::placed(size_t layer, std::span<const uint32_t> round,
                                                    std::span<const Route> routes) const {
  std::vector<uint32_t> slot_of(round.empty() ? 0 : 1 + *std::ranges::max_element(round), slots_);
  for (const uint32_t expert : round) slot_of[expert] = kept_[layer].slot_of(expert);
  std::vector<Route> out(routes.begin(), routes.end());
  for (Route& route : out)
    route.expert = route.expert < slot_of.size() ? slot_of[route.expert] : slots_;
  return out;
}

}  // namespace lapidary::model
