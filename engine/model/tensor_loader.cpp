#include "engine/model/tensor_loader.h"

#include <algorithm>
#include <memory>

#include "engine/base/text.h"
#include "engine/gguf/codec.h"
#include "engine/kernels/repack.h"

namespace lapidary::model {
namespace {

// Bytes of a tensor that one piece brings to the GPU, and pieces that are on their way at once:
// while one is repacked the next ones are read.
constexpr uint64_t kPieceBytes = 16 << 20;
constexpr size_t kPiecesAtOnce = 4;

}  // namespace

Result<kernels::Codec> matrix_codec(const gguf::TensorInfo& tensor, uint64_t rows, uint64_t cols) {
  if (const auto codec = kernels::codec_for(tensor.type)) {
    TRY_VOID(kernels::check_matrix(*codec, rows, cols));
    return *codec;
  }
  return fail(ErrorCode::kUnsupported,
              cat("tensor '", tensor.name, "' has type ",
                  gguf::tensor_type_name(static_cast<uint32_t>(tensor.type)),
                  ", which has no GPU kernels yet"));
}

Task<Status> read_vectors(uint32_t source, std::span<const VectorJob> jobs, std::span<float> out) {
  struct Read {
    gpu::HostFuture future;
    std::vector<std::byte> bytes;
  };
  std::vector<std::unique_ptr<Read>> reads;
  const auto count_of = [](const VectorJob& job) {
    return job.count == 0 ? job.tensor->elements() : job.count;
  };
  for (const VectorJob& job : jobs) {
    auto read = std::make_unique<Read>();
    const uint64_t each = job.tensor->bytes / job.tensor->elements();
    const bool part = job.first != 0 || job.count != 0;
    read->bytes.resize(static_cast<size_t>(part ? job.count * each : job.tensor->bytes));
    gpu::host_source_read(source, static_cast<double>(job.tensor->offset + job.first * each),
                          read->bytes.data(), static_cast<uint32_t>(read->bytes.size()),
                          read->future.start());
    reads.push_back(std::move(read));
  }
  // Every read is awaited, also after a failure: the host still writes to its bytes.
  Status status;
  for (size_t i = 0; i < reads.size(); ++i) {
    const VectorJob& job = jobs[i];
    Status read = co_await reads[i]->future;
    if (read) {
      read = gguf::decode_block_row(job.tensor->type, reads[i]->bytes,
                                    out.subspan(job.at, static_cast<size_t>(count_of(job))));
    }
    if (!read && status) {
      status =
          fail(read.error().code, cat("tensor '", job.tensor->name, "': ", read.error().message));
    }
  }
  co_return status;
}

Task<Status> upload_matrices(gpu::Device& device, kernels::KernelCache& cache, uint32_t source,
                             std::vector<MatrixJob> jobs, LoadProgress progress,
                             std::function<bool()> cancelled) {
  // In the file's order, so that a disk or a server is read from front to back.
  std::ranges::sort(jobs, {}, [](const MatrixJob& job) {
    return job.tensor->offset + job.row_begin * kernels::file_row_bytes(job.codec, job.cols);
  });
  uint64_t total = 0;
  uint64_t staging_bytes = kPieceBytes;
  std::vector<uint32_t> slots;
  for (const MatrixJob& job : jobs) {
    const uint64_t row_bytes = kernels::file_row_bytes(job.codec, job.cols);
    total += row_bytes * job.rows;
    staging_bytes = std::max(staging_bytes, row_bytes);
    slots.push_back(cache.add(kernels::repack_source({job.codec, job.cols})));
  }
  CO_TRY_VOID(co_await cache.compile());

  // A piece uses the staging buffer of the one kPiecesAtOnce before it: the queue keeps their
  // order, so it is enough that that one's repack was submitted before this one's copies are.
  struct Staging {
    gpu::Buffer buffer;
    gpu::HostFuture upload;
  };
  std::vector<Staging> stagings(kPiecesAtOnce);
  for (Staging& staging : stagings) {
    CO_TRY(staging.buffer,
           device.create_buffer(staging_bytes + 16, gpu::kStorageUsage, "upload staging"));
  }
  CO_TRY(gpu::Buffer params, device.create_buffer(sizeof(kernels::RepackParams), gpu::kParamsUsage,
                                                  "repack parameters"));
  struct Piece {
    size_t job;
    uint32_t row, rows;
    uint64_t bytes;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const MatrixJob& job = jobs[i];
    const uint64_t row_bytes = kernels::file_row_bytes(job.codec, job.cols);
    const auto most =
        static_cast<uint32_t>(std::min<uint64_t>(staging_bytes / row_bytes, job.rows));
    for (uint32_t row = 0; row < job.rows; row += most) {
      const uint32_t rows = std::min(most, job.rows - row);
      pieces.push_back({i, row, rows, rows * row_bytes});
    }
  }
  const auto start = [&](size_t p) {
    const Piece& piece = pieces[p];
    const MatrixJob& job = jobs[piece.job];
    const uint64_t row_bytes = piece.bytes / piece.rows;
    const uint64_t offset = job.tensor->offset + (job.row_begin + piece.row) * row_bytes;
    Staging& staging = stagings[p % kPiecesAtOnce];
    gpu::host_source_upload(source, static_cast<double>(offset), static_cast<double>(piece.bytes),
                            staging.buffer.id(), 0, staging.upload.start());
  };

  uint64_t loaded = 0;
  gpu::CommandList list;
  gpu::Bindings bindings;
  Status status;
  size_t started = 0;
  // After a failure what is under way is awaited all the same: the host still writes to its
  // buffers.
  for (size_t p = 0; p < pieces.size() && (status || p < started); ++p) {
    while (status && started < std::min(pieces.size(), p + kPiecesAtOnce)) start(started++);
    Staging& staging = stagings[p % kPiecesAtOnce];
    Status arrived = co_await staging.upload;
    if (status && !arrived) status = std::move(arrived);
    if (status && cancelled()) status = fail(ErrorCode::kCancelled, "loading was cancelled");
    if (!status) continue;
    const Piece& piece = pieces[p];
    const MatrixJob& job = jobs[piece.job];
    const gpu::Kernel& kernel = cache[slots[piece.job]];
    auto bound = device.create_bindings(
        kernel, {staging.buffer,
                 {*job.target, job.offset, kernels::packed_bytes(job.codec, job.rows, job.cols)},
                 params});
    if (!bound) {
      status = std::unexpected(bound.error());
      continue;
    }
    bindings = std::move(*bound);
    const kernels::RepackParams repack{piece.row, piece.rows, job.rows, 0};
    device.write(params, 0, std::as_bytes(std::span(&repack, 1)));
    const kernels::Groups groups = kernels::repack_groups({job.codec, job.cols}, piece.rows);
    list.reset();
    list.begin_pass();
    list.dispatch(kernel, bindings, groups.x, groups.y, groups.z);
    list.end_pass();
    device.submit(list);
    loaded += piece.bytes;
    if (progress) progress(loaded, total);
  }
  CO_TRY_VOID(std::move(status));
  co_return co_await device.sync();
}

}  // namespace lapidary::model
