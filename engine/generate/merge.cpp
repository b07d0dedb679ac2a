#include "engine/generate/merge.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/gguf/encode.h"
#include "engine/gpu/host.h"

namespace lapidary::generate {
namespace {

constexpr uint64_t kPieceBytes = 8 << 20;
// Of a piece that is dequantised.
constexpr uint64_t kPieceElements = 2 << 20;

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

Result<std::optional<gguf::TensorType>> parse_type(const Json& options) {
  const Json* type = json_member(options, "type");
  if (type == nullptr || *type == "keep") return std::nullopt;
  std::string names = "keep";
  for (const gguf::TensorTypeInfo& info : gguf::kTensorTypes) {
    if (!gguf::encodable(info.type)) continue;
    std::string name(info.name);
    std::ranges::transform(name, name.begin(), lower);
    if (*type == name) return info.type;
    names += ", " + name;
  }
  return fail(ErrorCode::kInvalidArgument, cat("the type is one of ", names));
}

std::string type_name(gguf::TensorType type) {
  return std::string(gguf::tensor_type_info(type).name);
}

}  // namespace

Task<Result<std::shared_ptr<Merge>>> Merge::open(uint32_t source, Json options,
                                                 Cancelled cancelled) {
  CO_TRY(const std::optional<gguf::TensorType> type, parse_type(options));
  const Json* digest = json_member(options, "digest");
  const Json* list = json_member(options, "adapters");
  if (list == nullptr || !list->is_array() || list->empty() || list->size() > kMaxAdapters) {
    co_return fail(ErrorCode::kInvalidArgument, cat("1 to ", kMaxAdapters, " adapters are merged"));
  }
  CO_TRY(gguf::Header header, co_await read_header(source, nullptr));
  std::vector<adapter::ScaledAdapter> adapters;
  for (const Json& each : *list) {
    const Json* handle = json_member(each, "source");
    if (handle == nullptr || !handle->is_number_unsigned())
      co_return fail(ErrorCode::kInvalidArgument, "an adapter has no source");
    CO_TRY(const float scale, parse_adapter_scale(each, 1));
    CO_TRY(adapter::LoraAdapter adapter,
           co_await read_adapter_source(handle->get<uint32_t>(), each, cancelled));
    CO_TRY_VOID(adapter::check_digest(
        adapter, digest != nullptr && digest->is_string() ? digest->get<std::string>() : ""));
    adapters.push_back({std::move(adapter), scale});
  }
  CO_TRY(adapter::MergePlan plan,
         adapter::MergePlan::make(std::move(header), std::move(adapters), type, kMaxAdapterValues));
  co_return std::shared_ptr<Merge>(new Merge(source, std::move(plan)));
}

Json Merge::describe() const {
  Json matrices = Json::array();
  for (const adapter::MergedTensor& tensor : plan_.tensors()) {
    if (tensor.terms.empty()) continue;
    matrices.push_back({{"name", std::string(tensor.base->name)},
                        {"from", type_name(tensor.base->type)},
                        {"to", type_name(tensor.type)}});
  }
  return {{"bytes", plan_.file_size()}, {"matrices", std::move(matrices)}};
}

Json Merge::report() const {
  const bool any = measure_.change > 0;
  return {{"kept", any ? measure_.kept / measure_.change : 1},
          {"error", any ? std::sqrt(measure_.error / measure_.change) : 0}};
}

Task<Result<std::vector<std::byte>>> Merge::read(Cancelled cancelled) {
  if (reading_) co_return fail(ErrorCode::kBusy, "the merged file is read one piece at a time");
  reading_ = true;
  auto piece = co_await next(std::move(cancelled));
  reading_ = false;
  co_return piece;
}

Task<Result<std::vector<std::byte>>> Merge::next(Cancelled cancelled) {
  if (cancelled()) co_return fail(ErrorCode::kCancelled, "cancelled");
  if (header_done_ < plan_.header().size()) {
    const Bytes rest = plan_.header().subspan(static_cast<size_t>(header_done_));
    const Bytes piece = rest.first(std::min<size_t>(rest.size(), kPieceBytes));
    header_done_ += piece.size();
    co_return std::vector<std::byte>(piece.begin(), piece.end());
  }
  if (tensor_ == plan_.tensors().size()) co_return std::vector<std::byte>();
  const adapter::MergedTensor& tensor = plan_.tensors()[tensor_];
  const gguf::TensorInfo& base = *tensor.base;
  const uint64_t row_bytes = base.bytes / base.rows();
  const uint64_t most = tensor.terms.empty()
                            ? kPieceBytes
                            : row_bytes * std::max<uint64_t>(1, kPieceElements / base.dims[0]);
  std::vector<std::byte> piece(static_cast<size_t>(std::min(most, base.bytes - taken_)));
  CO_TRY_VOID(co_await gpu::HostCall([&](uint32_t ticket) {
    gpu::host_source_read(source_, static_cast<double>(base.offset + taken_), piece.data(),
                          static_cast<uint32_t>(piece.size()), ticket);
  }));
  const uint64_t first = taken_ / row_bytes;
  taken_ += piece.size();
  if (!tensor.terms.empty()) {
    CO_TRY(piece, adapter::merge_rows(tensor, first, piece, measure_));
  }
  if (taken_ == base.bytes) {
    piece.resize(piece.size() +
                 static_cast<size_t>(round_up(tensor.bytes, plan_.alignment()) - tensor.bytes));
    taken_ = 0;
    ++tensor_;
  }
  co_return piece;
}

}  // namespace lapidary::generate
