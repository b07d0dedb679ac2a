#include "engine/model/adapter_stack.h"

#include <algorithm>
#include <cstring>

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::model {
namespace {

Result<gpu::Buffer> create_buffer(gpu::Device& device, uint64_t bytes, const std::string& name) {
  if (static_cast<double>(bytes) > device.info().max_binding_size) {
    return fail(ErrorCode::kOutOfMemory,
                cat("the adapters of ", name, " need a binding of ", bytes,
                    " bytes; this GPU allows ", device.info().max_binding_size));
  }
  return device.create_buffer(bytes, gpu::kStorageUsage, cat("adapter of ", name));
}

kernels::LowRank shape_of(const AdapterMatrix& matrix) {
  return {.parts = {{.rank = matrix.rank, .rows = matrix.outputs}}, .cols = matrix.inputs};
}

}  // namespace

const AdapterWeights::Matrix* AdapterWeights::find(TensorRole role, uint32_t layer) const {
  const auto found = std::ranges::find_if(matrices, [&](const Matrix& matrix) {
    return matrix.shape.role == role && matrix.shape.layer == layer;
  });
  return found == matrices.end() ? nullptr : &*found;
}

Task<Result<AdapterWeights>> upload_adapter(gpu::Device& device,
                                            std::span<const AdapterMatrix> matrices) {
  AdapterWeights out;
  std::vector<float> values;
  for (const AdapterMatrix& matrix : matrices) {
    const auto row = static_cast<size_t>(shape_of(matrix).row_bytes() / sizeof(float));
    AdapterWeights::Matrix made{.shape = matrix};
    made.shape.a = {};
    made.shape.b = {};
    made.a_bytes = uint64_t{matrix.rank} * row * sizeof(float);
    made.b_bytes = uint64_t{matrix.rank} * matrix.outputs * sizeof(float);
    CO_TRY(made.buffer, create_buffer(device, made.a_bytes + made.b_bytes,
                                      tensor_name(matrix.role, static_cast<int>(matrix.layer))));
    values.assign(size_t{matrix.rank} * (row + matrix.outputs), 0.0f);
    for (size_t r = 0; r < matrix.rank; ++r) {
      std::ranges::copy(matrix.a.subspan(r * matrix.inputs, matrix.inputs),
                        values.begin() + static_cast<std::ptrdiff_t>(r * row));
      float* const b = values.data() + matrix.rank * row + r * matrix.outputs;
      for (size_t o = 0; o < matrix.outputs; ++o) b[o] = matrix.b[o * matrix.rank + r];
    }
    device.write(made.buffer, 0, std::as_bytes(std::span(values)));
    out.bytes += made.buffer.size();
    out.matrices.push_back(std::move(made));
  }
  CO_TRY_VOID(co_await device.sync());
  co_return out;
}

const AdapterStack::Change* AdapterStack::find(size_t layer, Product product) const {
  if (product == Product::kHead) return head_.get();
  return layers_.empty() ? nullptr : layers_[layer][static_cast<size_t>(product)].get();
}

bool AdapterStack::changes(Product product) const {
  if (product == Product::kHead) return head_ != nullptr;
  return std::ranges::any_of(
      layers_, [&](const auto& layer) { return layer[static_cast<size_t>(product)] != nullptr; });
}

// roles: one a segment. What the active adapters have of them is copied side by side.
Status AdapterStack::add(gpu::Device& device, gpu::CommandList& list,
                         std::span<const ActiveAdapter> active, size_t layer, Product product,
                         std::span<const TensorRole> roles,
                         std::span<const kernels::Segment> segments, uint32_t cols) {
  struct Piece {
    const AdapterWeights::Matrix* matrix;
    float scale;
  };
  std::vector<std::vector<Piece>> pieces(roles.size());
  kernels::LowRank shape{.cols = cols};
  for (size_t i = 0; i < roles.size(); ++i) {
    kernels::LowRankPart part{.rows = segments[i].rows};
    for (const ActiveAdapter& adapter : active) {
      const auto* matrix = adapter.weights->find(roles[i], static_cast<uint32_t>(layer));
      if (matrix == nullptr) continue;
      part.rank += matrix->shape.rank;
      pieces[i].push_back({matrix, adapter.scale});
    }
    if (part.rank > kernels::kMaxLowRank) {
      return fail(
          ErrorCode::kInvalidArgument,
          cat("the adapters of ", tensor_name(roles[i], static_cast<int>(layer)), " have rank ",
              part.rank, " together; at most ", kernels::kMaxLowRank, " are possible"));
    }
    shape.parts.push_back(part);
  }
  if (shape.rank() == 0) return {};
  auto change = std::make_unique<Change>(Change{.shape = std::move(shape)});
  TRY(change->buffer,
      create_buffer(device, change->shape.bytes(), tensor_name(roles[0], static_cast<int>(layer))));
  std::vector<float> factors;
  for (size_t i = 0; i < roles.size(); ++i) {
    uint64_t a = change->shape.a_offset(i);
    uint64_t b = change->shape.b_offset(i);
    for (const auto& [matrix, scale] : pieces[i]) {
      list.copy(matrix->buffer, 0, change->buffer, a, matrix->a_bytes);
      list.copy(matrix->buffer, matrix->a_bytes, change->buffer, b, matrix->b_bytes);
      a += matrix->a_bytes;
      b += matrix->b_bytes;
      factors.insert(factors.end(), matrix->shape.rank,
                     static_cast<float>(matrix->shape.scale * scale));
    }
  }
  device.write(change->buffer, change->shape.factors(), std::as_bytes(std::span(factors)));
  max_rank_ = std::max(max_rank_, change->shape.rank());
  bytes_ += change->buffer.size();
  (product == Product::kHead ? head_ : layers_[layer][static_cast<size_t>(product)]) =
      std::move(change);
  return {};
}

Task<Result<AdapterStack>> AdapterStack::create(gpu::Device& device, const Config& config,
                                                const Weights& weights,
                                                std::span<const ActiveAdapter> active) {
  using enum TensorRole;
  AdapterStack stack;
  if (active.empty()) co_return stack;
  stack.layers_.resize(config.layers.size());
  gpu::CommandList list;
  for (size_t l = 0; l < config.layers.size(); ++l) {
    const LayerWeights& w = weights.layers[l];
    const auto add = [&](Product product, std::initializer_list<TensorRole> roles,
                         const MatrixGroup& group) {
      return stack.add(device, list, active, l, product,
                       std::span(roles.begin(), group.segments.size()), group.segments, group.cols);
    };
    // A layer without V, or without K and V, has fewer segments.
    CO_TRY_VOID(add(Product::kQkv, {kAttnQ, kAttnK, kAttnV}, w.qkv));
    CO_TRY_VOID(add(Product::kOutput, {kAttnOutput}, w.output));
    CO_TRY_VOID(add(Product::kGateUp, {kFfnGate, kFfnUp}, w.gate_up));
    CO_TRY_VOID(add(Product::kDown, {kFfnDown}, w.down));
    if (config.per_layer_dim == 0) continue;
    CO_TRY_VOID(add(Product::kPleGate, {kInpGate}, w.ple_gate));
    CO_TRY_VOID(add(Product::kPleProj, {kProj}, w.ple_proj));
  }
  const TensorRole head[] = {kOutput};
  const kernels::Segment rows[] = {{.codec = kernels::Codec::kF32, .rows = config.vocab}};
  CO_TRY_VOID(stack.add(device, list, active, 0, Product::kHead, head, rows, config.hidden));
  device.submit(list);
  CO_TRY_VOID(co_await device.sync());
  co_return std::move(stack);
}

}  // namespace lapidary::model
