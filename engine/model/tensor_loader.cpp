#include "engine/model/tensor_loader.h"

#include <algorithm>
#include <memory>

#include "engine/base/text.h"
#include "engine/gguf/codec.h"

namespace lapidary::model {

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
  std::vector<std::vector<MatrixJob>> all;
  all.push_back(std::move(jobs));
  CO_TRY(const std::unique_ptr<LayerStream> stream,
         co_await LayerStream::create(device, cache, source, std::move(all)));
  CO_TRY_VOID(co_await stream->load(0, 1, [&](uint64_t) -> Status {
    if (cancelled()) return fail(ErrorCode::kCancelled, "loading was cancelled");
    if (progress) progress(stream->read_bytes(), stream->total_bytes());
    return {};
  }));
  co_return co_await device.sync();
}

}  // namespace lapidary::model
