#include "engine/adapter/merge.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/gguf/codec.h"
#include "engine/gguf/encode.h"

namespace lapidary::adapter {
namespace {

using gguf::TensorType;
using model::TensorRole;

// Sizes and offsets cross to the host as doubles.
constexpr uint64_t kMaxMergedBytes = uint64_t{1} << 53;

void put(std::vector<std::byte>& out, const void* data, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  out.insert(out.end(), from, from + bytes);
}
template <typename T>
void put(std::vector<std::byte>& out, T value) {
  put(out, &value, sizeof value);
}

std::string quoted(const gguf::TensorInfo& tensor) { return cat("'", printable(tensor.name), "'"); }

// What loses less than a type that cannot be written.
TensorType finer(TensorType type) {
  switch (type) {
    case TensorType::kQ2_K:
    case TensorType::kQ3_K:
      return TensorType::kQ4_K;
    case TensorType::kIQ4_XS:
      return TensorType::kQ5_K;
    case TensorType::kIQ4_NL:
    case TensorType::kMXFP4:
      return TensorType::kQ5_0;
    default:
      return TensorType::kQ8_0;
  }
}

// The same in blocks of 32, where rows are not whole blocks of 256.
TensorType in_short_blocks(TensorType type) {
  return type == TensorType::kQ4_K ? TensorType::kQ5_0 : TensorType::kQ8_0;
}

bool all_finite(std::span<const float> values) {
  return std::ranges::all_of(values, [](float v) { return std::isfinite(v); });
}

}  // namespace

TensorType writable_type(TensorType wanted, uint64_t row) {
  const auto fits = [&](TensorType type) {
    return row % gguf::tensor_type_info(type).block_elements == 0;
  };
  TensorType type = gguf::encodable(wanted) ? wanted : finer(wanted);
  if (!fits(type)) type = in_short_blocks(type);
  return fits(type) ? type : TensorType::kF16;
}

void MergeMeasure::operator+=(const MergeMeasure& other) {
  change += other.change;
  kept += other.kept;
  error += other.error;
}

Result<MergePlan> MergePlan::make(gguf::Header base, std::vector<ScaledAdapter> adapters,
                                  std::optional<TensorType> type, uint64_t most_values) {
  TRY(const model::Config config, model::Config::from_gguf(base));
  MergePlan plan(std::move(base), std::move(adapters));
  uint64_t values = 0;
  for (const ScaledAdapter& each : plan.adapters_) {
    TRY_VOID(check(each.adapter, config));
    for (const LoraModule& module : each.adapter.modules)
      values += module.a.size() + module.b.size();
  }
  if (values > most_values) {
    return fail(ErrorCode::kOutOfMemory, cat("the adapters have ", values, " values; at most ",
                                             most_values, " fit in memory"));
  }
  for (const gguf::TensorInfo& tensor : plan.base_.tensors())
    plan.tensors_.push_back({.base = &tensor});
  TRY_VOID(plan.add_terms(config));
  TRY_VOID(plan.place(type));
  plan.write_header();
  return plan;
}

Status MergePlan::add_terms(const model::Config& config) {
  for (const ScaledAdapter& each : adapters_) {
    for (const LoraModule& module : each.adapter.modules) {
      const auto layer = static_cast<int>(module.layer);
      const std::string name = module_name(module);
      const gguf::TensorInfo* info = model::find_tensor(base_, module.role, layer);
      if (info == nullptr && module.role == TensorRole::kOutput) {
        return fail(ErrorCode::kUnsupported,
                    cat("the adapter changes the output head, ", name,
                        ", which this model ties to its embedding: it cannot be merged"));
      }
      if (info == nullptr)
        return fail(ErrorCode::kNotFound, cat("the model file has no tensor ", name));
      const model::TensorShape shape = model::expected_shape(config, module.role, layer);
      if (info->dims != shape.dims) {
        return fail(ErrorCode::kInvalidFormat,
                    cat("tensor ", quoted(*info), " should be of shape ", to_string(shape),
                        ", but the file has ", info->dims[0], " by ", info->rows()));
      }
      const gguf::TensorTypeInfo& type = gguf::tensor_type_info(info->type);
      if (!type.decodable) {
        return fail(ErrorCode::kUnsupported,
                    cat("tensor ", quoted(*info), " is of type ", type.name,
                        ", which cannot be decoded: merge into a file of another type"));
      }
      const auto factor = static_cast<float>(adapter::scale(each.adapter, module) * each.scale);
      if (factor != 0) tensors_[info - base_.tensors().data()].terms.push_back({&module, factor});
    }
  }
  return {};
}

Status MergePlan::place(std::optional<TensorType> type) {
  uint64_t source_bytes = 0;  // at most 2^16 tensors of a file's size
  uint64_t header = base_.preamble().size();
  for (MergedTensor& tensor : tensors_) {
    const gguf::TensorInfo& info = *tensor.base;
    const auto sum = checked_add(source_bytes, info.bytes);
    if (!sum || *sum > base_.file_size() - base_.data_offset())
      return fail(ErrorCode::kInvalidFormat, "tensors of the model file overlap");
    source_bytes = *sum;
    tensor.type =
        tensor.terms.empty() ? info.type : writable_type(type.value_or(info.type), info.dims[0]);
    TRY(tensor.bytes, gguf::tensor_bytes(tensor.type, info.elements()));
    header += sizeof(uint64_t) + info.name.size() + sizeof(uint32_t) +
              info.n_dims * sizeof(uint64_t) + sizeof(uint32_t) + sizeof(uint64_t);
  }
  file_size_ = round_up(header, alignment());
  for (MergedTensor& tensor : tensors_) {
    tensor.offset = file_size_;
    const auto end = checked_add(file_size_, tensor.bytes);
    if (!end || *end > kMaxMergedBytes - alignment())
      return fail(ErrorCode::kUnsupported, "the merged file would be too large");
    file_size_ = round_up(*end, alignment());
  }
  return {};
}

void MergePlan::write_header() {
  const Bytes preamble = base_.preamble();
  header_.assign(preamble.begin(), preamble.end());
  const uint64_t data = tensors_.empty() ? file_size_ : tensors_.front().offset;
  for (const MergedTensor& tensor : tensors_) {
    const gguf::TensorInfo& info = *tensor.base;
    put(header_, uint64_t{info.name.size()});
    put(header_, info.name.data(), info.name.size());
    put(header_, info.n_dims);
    put(header_, info.dims.data(), info.n_dims * sizeof(uint64_t));
    put(header_, static_cast<uint32_t>(tensor.type));
    put(header_, tensor.offset - data);
  }
  header_.resize(static_cast<size_t>(data));
}

Result<std::vector<std::byte>> merge_rows(const MergedTensor& tensor, uint64_t first, Bytes base,
                                          MergeMeasure& measure) {
  const gguf::TensorInfo& info = *tensor.base;
  const auto inputs = static_cast<size_t>(info.dims[0]);
  TRY(const uint64_t row_bytes, gguf::tensor_bytes(info.type, inputs));
  const auto rows = static_cast<size_t>(base.size() / row_bytes);
  if (base.size() % row_bytes != 0 || first + rows > info.rows())
    return fail(ErrorCode::kInvalidArgument, cat("not whole rows of ", quoted(info)));

  std::vector<float> weights(inputs), delta(inputs), sums(inputs), written(inputs);
  std::vector<std::byte> out;
  for (size_t row = 0; row < rows; ++row) {
    TRY_VOID(gguf::decode_block_row(
        info.type, base.subspan(row * static_cast<size_t>(row_bytes), row_bytes), weights));
    if (!all_finite(weights)) {
      return fail(ErrorCode::kInvalidFormat,
                  cat("tensor ", quoted(info), " holds values that are not finite"));
    }
    std::ranges::fill(delta, 0.0f);
    for (const auto& [module, factor] : tensor.terms) {
      const float* b = module->b.data() + (first + row) * module->rank;
      for (size_t r = 0; r < module->rank; ++r) {
        const float by = factor * b[r];
        const float* a = module->a.data() + r * inputs;
        for (size_t i = 0; i < inputs; ++i) delta[i] += by * a[i];
      }
    }
    for (size_t i = 0; i < inputs; ++i) sums[i] = weights[i] + delta[i];
    const auto no_room = [&] {
      return fail(ErrorCode::kUnsupported,
                  cat("tensor ", quoted(info), " with the adapters' changes has values that ",
                      gguf::tensor_type_info(tensor.type).name, " has no room for"));
    };
    if (!all_finite(sums)) return no_room();
    TRY(const std::vector<std::byte> encoded, gguf::encode_block_row(tensor.type, sums));
    TRY_VOID(gguf::decode_block_row(tensor.type, encoded, written));
    if (!all_finite(written)) return no_room();
    out.insert(out.end(), encoded.begin(), encoded.end());
    MergeMeasure of_row;
    for (size_t i = 0; i < inputs; ++i) {
      const double wanted = delta[i], made = double{written[i]} - weights[i];
      of_row.change += wanted * wanted;
      of_row.kept += wanted * made;
      of_row.error += (made - wanted) * (made - wanted);
    }
    measure += of_row;
  }
  return out;
}

}  // namespace lapidary::adapter
