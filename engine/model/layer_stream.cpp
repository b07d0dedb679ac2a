#include "engine/model/layer_stream.h"

#include <algorithm>

#include "engine/base/text.h"
#include "engine/kernels/repack.h"

namespace lapidary::model {
namespace {

// Bytes of a tensor that one piece brings to the GPU: for the staging buffers to be little beside
// what goes through them, no more than this part of it.
constexpr uint64_t kLeastPiece = 256 << 10;
constexpr uint64_t kMostPiece = 16 << 20;
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
                  std::min(largest, std::clamp(total / kPiecePart, kLeastPiece, kMostPiece)));
}

}  // namespace

uint64_t LayerStream::staging_bytes(std::span<const std::vector<MatrixJob>> jobs) {
  return kPiecesAtOnce * (piece_bytes(jobs) + 16);
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
    for (const MatrixJob& job : jobs) {
      const uint64_t row_bytes = kernels::file_row_bytes(job.codec, job.cols);
      const auto index = static_cast<uint32_t>(self->jobs_.size());
      self->jobs_.push_back({.name = std::string(job.tensor->name),
                             .at = file_offset(job),
                             .codec = job.codec,
                             .cols = job.cols,
                             .rows = job.rows,
                             .target = job.target,
                             .offset = job.offset,
                             .slot = cache.add(kernels::repack_source({job.codec, job.cols}))});
      const auto step = static_cast<uint32_t>(std::min<uint64_t>(most / row_bytes, job.rows));
      for (uint32_t row = 0; row < job.rows; row += step) {
        const uint32_t rows = std::min(step, job.rows - row);
        self->pieces_.push_back({index, row, rows, rows * row_bytes, {}});
      }
      self->total_bytes_ += row_bytes * job.rows;
    }
  }
  self->begins_.push_back(self->pieces_.size());
  CO_TRY_VOID(co_await cache.compile());
  for (Staging& staging : self->stagings_) {
    CO_TRY(staging.buffer, device.create_buffer(most + 16, gpu::kStorageUsage, "upload staging"));
  }
  CO_TRY(self->params_, device.create_buffer(sizeof(kernels::RepackParams), gpu::kParamsUsage,
                                             "repack parameters"));
  co_return std::move(self);
}

void LayerStream::start() {
  const Piece& piece = pieces_[started_];
  Staging& staging = stagings_[started_++ % kPiecesAtOnce];
  const uint64_t offset = jobs_[piece.job].at + piece.row * (piece.bytes / piece.rows);
  gpu::host_source_upload(source_, static_cast<double>(offset), static_cast<double>(piece.bytes),
                          staging.buffer.id(), 0, staging.upload.start());
}

Status LayerStream::repack(Piece& piece, const gpu::Buffer& staging) {
  const Job& job = jobs_[piece.job];
  const gpu::Kernel& kernel = cache_[job.slot];
  if (!piece.bindings) {
    TRY(piece.bindings,
        device_.create_bindings(kernel, {staging,
                                         {*job.target, job.offset,
                                          kernels::packed_bytes(job.codec, job.rows, job.cols)},
                                         params_}));
  }
  const kernels::RepackParams params{piece.row, piece.rows, job.rows, 0};
  device_.write(params_, 0, std::as_bytes(std::span(&params, 1)));
  const kernels::Groups groups = kernels::repack_groups({job.codec, job.cols}, piece.rows);
  list_.reset();
  list_.begin_pass();
  list_.dispatch(kernel, piece.bindings, groups.x, groups.y, groups.z);
  list_.end_pass();
  device_.submit(list_);
  return {};
}

// The next piece.
Task<Status> LayerStream::take() {
  Piece& piece = pieces_[next_];
  Staging& staging = stagings_[next_++ % kPiecesAtOnce];
  Status status = co_await staging.upload;
  if (status) {
    read_bytes_ += piece.bytes;
    status = repack(piece, staging.buffer);
  }
  if (status) co_return status;
  co_return fail(status.error().code,
                 cat("tensor '", jobs_[piece.job].name, "': ", status.error().message));
}

// What is under way is awaited also where nobody wants it: the host still writes to its buffers.
Task<void> LayerStream::drain() {
  while (next_ < started_) static_cast<void>(co_await stagings_[next_++ % kPiecesAtOnce].upload);
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
    while (started_ < std::min(begins_[end], next_ + kPiecesAtOnce)) start();
    const uint64_t bytes = pieces_[next_].bytes;
    status = co_await take();
    if (status && arrived) status = arrived(bytes);
  }
  if (status) {
    held_ = layer;
  } else {
    co_await drain();
  }
  co_return status;
}

}  // namespace lapidary::model
