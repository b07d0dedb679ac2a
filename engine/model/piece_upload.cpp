#include "engine/model/piece_upload.h"

#include "engine/base/text.h"
#include "engine/kernels/repack.h"

namespace lapidary::model {

uint32_t PieceUpload::kernel(kernels::Codec codec, uint32_t cols) {
  return cache_.add(kernels::repack_source({codec, cols}));
}

Task<Status> PieceUpload::allocate(uint64_t most) {
  CO_TRY_VOID(co_await cache_.compile());
  for (Staging& staging : stagings_) {
    CO_TRY(staging.buffer, device_.create_buffer(most + 16, gpu::kStorageUsage, "upload staging"));
  }
  CO_TRY(params_, device_.create_buffer(sizeof(kernels::RepackParams), gpu::kParamsUsage,
                                        "repack parameters"));
  co_return Status{};
}

void PieceUpload::start(size_t n, const UploadPiece& piece) {
  Staging& staging = stagings_[n % stagings_.size()];
  gpu::host_source_upload(source_, static_cast<double>(piece.at), static_cast<double>(piece.bytes),
                          staging.buffer.id(), 0, staging.upload.start());
}

Status PieceUpload::repack(const UploadPiece& piece, const gpu::Buffer& staging,
                           gpu::Bindings& bindings) {
  const gpu::Kernel& kernel = cache_[piece.kernel];
  if (!bindings) {
    TRY(bindings, device_.create_bindings(
                      kernel, {staging,
                               {*piece.target, piece.offset,
                                kernels::packed_bytes(piece.codec, piece.all_rows, piece.cols)},
                               params_}));
  }
  const kernels::RepackParams params{piece.row, piece.rows, piece.all_rows, 0};
  device_.write(params_, 0, std::as_bytes(std::span(&params, 1)));
  const kernels::Groups groups = kernels::repack_groups({piece.codec, piece.cols}, piece.rows);
  list_.reset();
  list_.begin_pass();
  list_.dispatch(kernel, bindings, groups.x, groups.y, groups.z);
  list_.end_pass();
  device_.submit(list_);
  return {};
}

Task<Status> PieceUpload::take(size_t n, const UploadPiece& piece, gpu::Bindings& bindings) {
  Staging& staging = stagings_[n % stagings_.size()];
  Status status = co_await staging.upload;
  if (status) status = repack(piece, staging.buffer, bindings);
  if (status) co_return status;
  co_return fail(status.error().code, cat("tensor '", piece.name, "': ", status.error().message));
}

Task<void> PieceUpload::drop(size_t n) {
  static_cast<void>(co_await stagings_[n % stagings_.size()].upload);
}

}  // namespace lapidary::model
