#include "engine/model/layer_stream.h"

#include <algorithm>

#include "engine/kernels/repack.h"

namespace lapidary::model {
namespace {

// Bytes of a tensor that one piece brings to the GPU: for the staging buffers to be little beside
// what goes through them, no more than this part of it.
constexpr uint64_t kLeastPiece = 256 << 10;
constexpr uint64_t kMostLayerPiece = 16 << 20;
constexpr uint64_t kPiecePart = 64;

uint64_t file_offset(const MatrixJob& job) {
  return job.tensor->offset + job.row_begin * kernels::file_row_bytes(job.codec, job.cols);
}

// Of one staging buffer.
uint64_t piece_bytes(std::span<const std::vector<MatrixJob>> layers) {
  uint64_t widest = 0, largest = 0, total = 0;
  for (const std::vector<MatrixJob>& jobs : layers) {
    for (const MatrixJob& job : jobs) {
      const uint64_t row = kernels::file_row_bytes(job.codec, job.cols);
      widest = std::max(widest, row);
      largest = std::max(largest, row * job.rows);
      total += row * job.rows;
    }
  }
  return std::max(widest,
                  std::min(largest, std::clamp(total / kPiecePart, kLeastPiece, kMostLayerPiece)));
}

}  // namespace

uint64_t LayerStream::staging_bytes(std::span<const std::vector<MatrixJob>> jobs) {
  return PieceUpload::bytes(kPiecesAtOnce, piece_bytes(jobs));
}

void LayerStream::add(const MatrixJob& job, uint64_t most) {
  const uint64_t row_bytes = kernels::file_row_bytes(job.codec, job.cols);
  const uint32_t kernel = upload_.kernel(job.codec, job.cols);
  const std::string_view name = names_.emplace_back(job.tensor->name);
  const auto step = static_cast<uint32_t>(std::min<uint64_t>(most / row_bytes, job.rows));
  for (uint32_t row = 0; row < job.rows; row += step) {
    const uint32_t rows = std::min(step, job.rows - row);
    pieces_.push_back({{.name = name,
                        .at = file_offset(job) + row * row_bytes,
                        .bytes = rows * row_bytes,
                        .codec = job.codec,
                        .cols = job.cols,
                        .row = row,
                        .rows = rows,
                        .all_rows = job.rows,
                        .target = job.target,
                        .offset = job.offset,
                        .kernel = kernel},
                       {}});
  }
  total_bytes_ += row_bytes * job.rows;
}

Task<Result<std::unique_ptr<LayerStream>>> LayerStream::create(
    gpu::Device& device, kernels::KernelCache& cache, uint32_t source,
    std::vector<std::vector<MatrixJob>> layers) {
  std::unique_ptr<LayerStream> self(new LayerStream(device, cache, source));
  const uint64_t most = piece_bytes(layers);
  for (std::vector<MatrixJob>& jobs : layers) {
    // In the file's order, so that a disk or a server is read from front to back.
    std::ranges::sort(jobs, {}, file_offset);
    self->begins_.push_back(self->pieces_.size());
    for (const MatrixJob& job : jobs) self->add(job, most);
  }
  self->begins_.push_back(self->pieces_.size());
  CO_TRY_VOID(co_await self->upload_.allocate(most));
  co_return std::move(self);
}

// What is under way is awaited also where nobody wants it.
Task<void> LayerStream::drain() {
  while (next_ < started_) co_await upload_.drop(next_++);
}

Task<Status> LayerStream::load(size_t layer, size_t end, Arrived arrived) {
  if (held_ == layer) co_return Status{};
  held_ = kNone;
  if (next_ != begins_[layer]) {
    co_await drain();
    next_ = started_ = begins_[layer];
  }
  Status status;
  while (status && next_ < begins_[layer + 1]) {
    for (; started_ < std::min(begins_[end], next_ + kPiecesAtOnce); ++started_)
      upload_.start(started_, pieces_[started_].upload);
    Piece& piece = pieces_[next_];
    status = co_await upload_.take(next_++, piece.upload, piece.bindings);
    if (!status) break;
    read_bytes_ += piece.upload.bytes;
    if (arrived) status = arrived(piece.upload.bytes);
  }
  if (status) {
    held_ = layer;
  } else {
    co_await drain();
  }
  co_return status;
}

}  // namespace lapidary::model
