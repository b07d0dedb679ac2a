#include "engine/model/drafter.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/layout.h"
#include "engine/kernels/rope.h"
#include "engine/model/group_spec.h"
#include "engine/model/tensor_loader.h"

namespace lapidary::model {

using kernels::Epilogue;
using kernels::Groups;
using kernels::MatvecSpec;
using kernels::Prologue;

Task<Result<std::unique_ptr<Drafter>>> Drafter::create(gpu::Device& device,
                                                       kernels::KernelCache& cache,
                                                       const gguf::Header& header, Config config,
                                                       uint32_t source, Decoder& target,
                                                       std::function<bool()> cancelled) {
  std::unique_ptr<Drafter> drafter(new Drafter(device, cache, std::move(config), target));
  CO_TRY_VOID(co_await drafter->load(header, source, std::move(cancelled)));
  CO_TRY_VOID(drafter->allocate());
  CO_TRY_VOID(co_await device.sync());
  drafter->record();
  // Compiles the drafter's kernels, too.
  Status status = co_await target.prepare_verify();
  for (Program* program : {&drafter->norm_, &drafter->guess_})
    if (status) status = program->bind(device, cache);
  if (status) status = co_await device.sync();
  CO_TRY_VOID(std::move(status));
  co_return std::move(drafter);
}

Task<Status> Drafter::load(const gguf::Header& header, uint32_t source,
                           std::function<bool()> cancelled) {
  const auto nothing = [](uint64_t, uint64_t) {};
  CO_TRY(weights_,
         co_await load_weights(device_, cache_, header, config_, source, WeightPlaces{},
                               target_.context() + kernels::kRopeLow, nothing, cancelled));
  for (const LayerWeights& w : weights_.layers) {
    for (const MatrixGroup* group : {&w.qkv, &w.output, &w.gate_up, &w.down}) {
      if (group->split())
        co_return fail(ErrorCode::kUnsupported, "a matrix of the drafter is larger than a binding");
    }
  }
  std::vector<MatrixJob> jobs;
  for (const auto& [name, group] : {std::pair{kPreProjection, &pre_}, {kPostProjection, &post_}}) {
    const gguf::TensorInfo* tensor = header.tensor(name);
    const auto rows = static_cast<uint32_t>(tensor->rows());
    group->cols = static_cast<uint32_t>(tensor->dims[0]);
    CO_TRY(const kernels::Codec codec, matrix_codec(*tensor, rows, group->cols));
    group->segments = {{codec, rows, 0}};
    CO_TRY(gpu::Buffer buffer,
           device_.create_buffer(kernels::packed_bytes(codec, rows, group->cols),
                                 gpu::kStorageUsage, name));
    projection_bytes_ += buffer.size();
    group->buffer = std::move(buffer);
    jobs.push_back({tensor, codec, group->cols, 0, rows, group->buffer.get(), 0});
  }
  CO_TRY_VOID(co_await upload_matrices(device_, cache_, source, std::move(jobs), nothing,
                                       std::move(cancelled)));
  if (weights_.rope_sliding)
    CO_TRY_VOID(co_await shift_rope(weights_.rope_sliding, weights_.rotated_sliding));
  if (weights_.rope_global)
    CO_TRY_VOID(co_await shift_rope(weights_.rope_global, weights_.rotated_global));
  co_return Status{};
}

// The query stands at the position of the token that has not run, one after the last key. Attention
// knows one position, of that key; so the table (kernels/rope.h) gives the angles of the next one.
Task<Status> Drafter::shift_rope(const gpu::Buffer& table, uint32_t pairs) {
  const size_t row = size_t{std::max(pairs, 1u)} * 2;
  std::vector<float> values(table.size() / sizeof(float));
  CO_TRY_VOID(co_await device_.read(table, 0, std::as_writable_bytes(std::span(values))));
  const size_t low = kernels::kRopeLow;
  if (pairs > 0) {
    const std::vector<float> first_high(
        values.begin() + static_cast<std::ptrdiff_t>((low + 1) * row),
        values.begin() + static_cast<std::ptrdiff_t>((low + 2) * row));
    std::shift_left(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(low * row),
                    static_cast<std::ptrdiff_t>(row));
    std::ranges::copy(first_high, values.begin() + static_cast<std::ptrdiff_t>((low - 1) * row));
  }
  device_.write(table, 0, std::as_bytes(std::span(values)));
  co_return Status{};
}

kernels::AttentionSpec Drafter::attention_spec(size_t l) const {
  kernels::AttentionSpec spec = target_.attention_spec(config_.layers[l].kv_source);
  const kernels::AttentionSpec own = attention_shape(config_, weights_, l);
  spec.heads = own.heads;
  spec.window = own.window;
  spec.rotated_pairs = own.rotated_pairs;
  spec.shares_kv = true;
  spec.v_from_k = false;
  spec.both_ways = false;
  spec.eps = own.eps;
  spec.tiling = {};
  return spec;
}

Status Drafter::allocate() {
  const auto make = [&](gpu::Buffer& out, uint64_t bytes, std::string_view label,
                        uint32_t usage = gpu::kStorageUsage) -> Status {
    TRY(out, device_.create_buffer(bytes, usage, label));
    scratch_bytes_ += out.size();
    return {};
  };
  const auto floats = [](uint64_t count) { return count * sizeof(float); };
  const uint32_t hidden = config_.hidden;
  const uint32_t wide = target_.hidden();
  uint64_t q = 0, attention = 0, stats = 0;
  for (size_t l = 0; l < config_.layers.size(); ++l) {
    const kernels::AttentionSpec spec = attention_spec(l);
    TRY_VOID(kernels::check_attention(spec));
    const uint64_t splits = uint64_t{spec.tiling.splits} * spec.heads;
    q = std::max<uint64_t>(q, spec.qkv_rows());
    attention = std::max(attention, splits * spec.head_dim);
    stats = std::max(stats, splits * 2);
  }
  const uint32_t ffn = max_of(config_, [](const LayerConfig& l) { return l.ffn; });
  TRY_VOID(make(token_, sizeof(uint32_t), "drafted token"));
  TRY_VOID(make(step_, sizeof(kernels::Step), "step of a draft", gpu::kParamsUsage));
  TRY_VOID(make(counter_, sizeof(kernels::Step), "drafted tokens so far", gpu::kParamsUsage));
  TRY_VOID(make(guesses_, kernels::kResultSlots * sizeof(uint32_t), "drafted tokens"));
  TRY_VOID(make(stream_, floats(wide), "hidden state of the target"));
  TRY_VOID(make(normed_, floats(wide), "normed hidden state of the target"));
  TRY_VOID(make(in_, floats(2 * uint64_t{wide}), "input of the drafter"));
  for (gpu::Buffer& x : x_) TRY_VOID(make(x, floats(hidden), "residual stream of the drafter"));
  TRY_VOID(make(delta_, floats(hidden), "residual update of the drafter"));
  TRY_VOID(make(q_, floats(q), "queries of the drafter"));
  TRY_VOID(make(attention_, floats(attention), "attention output of the drafter"));
  TRY_VOID(make(stats_, floats(stats), "attention statistics of the drafter"));
  TRY_VOID(make(ffn_, floats(ffn), "feed-forward activations of the drafter"));
  TRY_VOID(make(logits_, floats(config_.vocab), "logits of the drafter"));
  return make(partial_, kernels::argmax_partial_bytes(config_.vocab), "argmax of the drafter");
}

void Drafter::add(MatvecSpec spec, std::vector<gpu::Range> ranges) {
  const kernels::Variant& variant = target_.options_.variant;
  if (variant.light) spec.tiling = kernels::light_tiling(spec);
  guess_.add(cache_, kernels::matvec_source(spec, variant), std::move(ranges),
             [spec](uint32_t) { return kernels::matvec_groups(spec); });
}

void Drafter::record() {
  const kernels::Variant& variant = target_.options_.variant;
  const Config& target = target_.config_;
  const kernels::ResidualNormSpec norm{
      .cols = target.hidden, .has_delta = false, .eps = target.rms_eps};
  norm_.add(cache_, kernels::residual_norm_source(norm, variant),
            {stream_, target_.vectors(target_.weights_.before_head), normed_, step_}, Groups{});

  const Table& table = target_.weights_.token_embd;
  for (const Table::Part& part : table.parts) {
    const kernels::GatherSpec spec{table.codec, table.cols,
                                   std::sqrt(static_cast<float>(target.hidden)), part.row_begin,
                                   part.rows};
    guess_.add(cache_, kernels::gather_source(spec), {part.buffer, token_, in_, step_},
               kernels::gather_groups(spec, 1));
  }
  add(group_spec(pre_, config_), {pre_.buffer, x_[0], in_});
  uint32_t current = 0;
  for (size_t l = 0; l < config_.layers.size(); ++l) record_layer(l, current);
  for (const Table::Part& part : weights_.head().parts) {
    MatvecSpec spec;
    spec.segments = {{weights_.head().codec, part.rows, 0}};
    spec.cols = config_.hidden;
    spec.row_offset = part.row_begin;
    spec.eps = config_.rms_eps;
    set_site(spec, weights_.before_head);
    add(spec, {part.buffer, logits_, x_[current], delta_, vectors(weights_.before_head),
               x_[current ^ 1]});
  }
  current ^= 1;
  guess_.add(cache_, kernels::argmax_partial_source(config_.vocab, variant), {logits_, partial_},
             kernels::argmax_groups(config_.vocab));
  guess_.add(cache_, kernels::argmax_final_source(config_.vocab, variant),
             {partial_, token_, guesses_, counter_}, Groups{});
  // The hidden state of the next guess.
  MatvecSpec post = group_spec(post_, config_);
  post.prologue = Prologue::kNorm;
  post.row_offset = target.hidden;
  add(post, {post_.buffer, in_, x_[current], vectors(weights_.before_head)});
}

void Drafter::record_layer(size_t l, uint32_t& current) {
  const LayerWeights& w = weights_.layers[l];
  MatvecSpec q = group_spec(w.qkv, config_);
  if (l == 0) {
    q.prologue = Prologue::kNorm;
    add(q, {w.qkv.buffer, q_, x_[current], vectors(w.before_attention)});
  } else {
    set_site(q, w.before_attention);
    add(q, {w.qkv.buffer, q_, x_[current], delta_, vectors(w.before_attention), x_[current ^ 1]});
    current ^= 1;
  }
  const kernels::AttentionSpec attention = attention_spec(l);
  const size_t source = config_.layers[l].kv_source;
  guess_.add(cache_, kernels::attention_decode_source(attention, target_.options_.variant),
             std::vector<gpu::Range>{q_, vectors(w.qk_norms), weights_.rope(config_.layers[l]),
                                     target_.k_cache(source), target_.v_cache(source), attention_,
                                     stats_, step_},
             [attention](uint32_t position) {
               return kernels::attention_decode_groups(attention, position);
             });
  MatvecSpec output = group_spec(w.output, config_);
  output.prologue = Prologue::kMerge;
  output.heads = attention.heads;
  output.head_dim = attention.head_dim;
  output.window = attention.window;
  output.attention = attention.tiling;
  add(output, {w.output.buffer, delta_, attention_, stats_, step_});
  MatvecSpec gate_up = group_spec(w.gate_up, config_);
  gate_up.epilogue = Epilogue::kGeglu;
  set_site(gate_up, w.before_ffn);
  add(gate_up,
      {w.gate_up.buffer, ffn_, x_[current], delta_, vectors(w.before_ffn), x_[current ^ 1]});
  current ^= 1;
  add(group_spec(w.down, config_), {w.down.buffer, delta_, ffn_});
}

void Drafter::draft(gpu::CommandList& list, const StepRow& first, const Hidden& hidden,
                    uint32_t count) {
  const uint32_t last = first.position - 1;  // of the cache
  const kernels::Step step{.position = last, .sequence = first.sequence};
  device_.write(step_, 0, std::as_bytes(std::span(&step, 1)));
  device_.write(token_, 0, std::as_bytes(std::span(&first.token, 1)));
  const uint64_t row = uint64_t{target_.hidden()} * sizeof(float);
  // The head has left the stream in the other of the two buffers.
  const Decoder::Scratch& s = hidden.verified ? target_.verify_.s : target_.one_;
  list.copy(s.x[target_.head_entry_ ^ 1], hidden.row * row, stream_, 0, row);
  list.clear(counter_, 0, sizeof(kernels::Step));
  list.begin_pass();
  norm_.record(list, cache_, 0);
  list.end_pass();
  list.copy(normed_, 0, in_, row, row);
  list.begin_pass();
  for (uint32_t i = 0; i < count; ++i) guess_.record(list, cache_, last);
  list.end_pass();
}

Task<Status> Drafter::run(std::span<const StepRow> rows, Hidden hidden, void* out,
                          uint32_t ticket) {
  target_.list_.reset();
  if (rows.size() > 1)
    draft(target_.list_, rows[0], hidden, static_cast<uint32_t>(rows.size() - 1));
  co_return co_await target_.verify(rows, guesses_, out, ticket);
}

}  // namespace lapidary::model
