#include "engine/model/audio_tower.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/step.h"

namespace lapidary::model {
namespace {

constexpr uint32_t kKeys = 12;  // that a token sees, itself included (gemma4.md §15)
constexpr float kCap = 50;
constexpr uint32_t kPastParts = 3;  // of a layer: keys, values, inputs of the convolution
// Rooms are made for so many tokens more, so that pieces of about the same length share one.
constexpr uint32_t kTokenStep = 64;
static_assert(kKeys <= kernels::kAudioPast);

// [distance][hidden]: sines, then cosines, of wavelengths from 2 pi to 10,000 times that.
std::vector<float> distance_table(uint32_t hidden) {
  const uint32_t waves = hidden / 2;
  std::vector<float> table(size_t{kKeys} * hidden);
  for (uint32_t d = 0; d < kKeys; ++d) {
    for (uint32_t i = 0; i < waves; ++i) {
      const double angle = d * std::exp(-(i * std::log(10'000.0) / (waves - 1)));
      table[d * hidden + i] = static_cast<float>(std::sin(angle));
      table[d * hidden + waves + i] = static_cast<float>(std::cos(angle));
    }
  }
  return table;
}

// A matrix [rows][cols] turned into [cols][rows], in its place.
void transpose(std::span<float> values, size_t rows, size_t cols) {
  const std::vector<float> copy(values.begin(), values.end());
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) values[c * rows + r] = copy[r * cols + c];
  }
}

// What the file's floats become before the GPU has them.
struct Change {
  size_t at = 0;
  size_t rows = 0, cols = 0;  // transposed, where there are rows
  size_t count = 0;           // scaled, where there are any
  float scale = 1;
};

void apply_all(std::span<const Change> changes, std::span<float> floats) {
  for (const Change& change : changes) {
    if (change.rows != 0)
      transpose(floats.subspan(change.at, change.rows * change.cols), change.rows, change.cols);
    for (float& value : floats.subspan(change.at, change.count)) value *= change.scale;
  }
}

}  // namespace

Task<Result<std::unique_ptr<AudioTower>>> AudioTower::load(
    gpu::Device& device, const AudioConfig& config, const AudioTensors& tensors, uint32_t source,
    const kernels::Variant& variant, std::function<bool()> cancelled) {
  std::unique_ptr<AudioTower> tower(new AudioTower(device, config, variant));
  CO_TRY_VOID(co_await tower->load_weights(tensors, source, std::move(cancelled)));
  co_return std::move(tower);
}

Task<Status> AudioTower::load_weights(const AudioTensors& tensors, uint32_t source,
                                      std::function<bool()> cancelled) {
  const uint32_t hidden = config_.hidden;
  std::vector<MatrixJob> matrices;
  uint64_t passing_bytes = 0;  // of what does not stay
  const auto plan = [&](MatrixGroup& group, std::string_view name, uint32_t cols) {
    return plan_matrix(group, *tensors.find(name), cols, matrices, weight_bytes_);
  };
  std::vector<float> floats;
  std::vector<VectorJob> vectors;
  std::vector<Change> changes;
  const auto add_vector = [&](std::string_view name, size_t at) {
    vectors.push_back({.tensor = tensors.find(name), .at = at});
  };
  // share: of what the layer's part gives, that joins the stream.
  const auto plan_site = [&](Site& site, const std::string& post, const std::string& pre,
                             float share = 1) {
    const size_t at = reserve_floats(floats, site, 2 * size_t{hidden} + 1);
    site.has_post = !post.empty();
    floats[at + 2 * size_t{hidden}] = 1.0f;
    if (site.has_post) {
      add_vector(post, at);
      changes.push_back({.at = at, .count = hidden, .scale = share});
    }
    add_vector(pre, at + hidden);
  };

  CO_TRY_VOID(plan(input_, "a.input_projection.weight", audio::kMelBins / 4 * config_.channels[1]));
  CO_TRY_VOID(plan(output_, "a.pre_encode.out.weight", hidden));
  CO_TRY_VOID(plan(projector_, "mm.a.input_projection.weight", config_.embedding));
  for (uint32_t i = 0; i < 2; ++i) {
    const kernels::AudioSubsampleSpec spec = subsample(i);
    const size_t taps = size_t{9} * spec.in;
    const size_t at = reserve_floats(floats, subsample_[i], (taps + 1) * spec.out);
    add_vector(cat("a.conv1d.", i, ".weight"), at);
    add_vector(cat("a.conv1d.", i, ".norm.weight"), at + taps * spec.out);
    changes.push_back({.at = at, .rows = spec.out, .cols = taps});
  }
  const size_t output_at = reserve_floats(floats, output_bias_, config_.embedding);
  add_vector("a.pre_encode.out.bias", output_at);

  layers_ = std::vector<Layer>(config_.layers);
  std::vector<std::string> linears;
  for (uint32_t l = 0; l < config_.layers; ++l) {
    Layer& layer = layers_[l];
    const auto name = [&](std::string_view part) { return audio_tensor_name(l, part); };
    for (size_t i = 0; i < kLinears; ++i) {
      const bool down = kAudioLinears[i].starts_with("ffn_down");
      CO_TRY_VOID(
          plan(layer.linears[i].weights, name(kAudioLinears[i]), down ? config_.ffn : hidden));
      layer.linears[i].clip = linears.size() * kClipBytes;
      linears.push_back(audio_tensor_name(l, kAudioLinears[i], ""));
    }
    CO_TRY_VOID(plan_matrix(layer.distances, *tensors.find(name("attn_k_rel")), hidden, matrices,
                            passing_bytes));
    plan_site(layer.before_ffn, "", name("ffn_norm"));
    plan_site(layer.before_attention, name("ffn_post_norm"), name("attn_pre_norm"), 0.5f);
    plan_site(layer.before_convolution, name("attn_post_norm"), name("conv_norm"));
    plan_site(layer.before_second_ffn, "", name("ffn_norm_1"));
    plan_site(layer.after, name("ffn_post_norm_1"), name("ln2"), 0.5f);
    const size_t scale_at = reserve_floats(floats, layer.q_scale, config_.head_dim());
    add_vector(name("per_dim_scale"), scale_at);
    changes.push_back(
        {.at = scale_at,
         .count = config_.head_dim(),
         .scale = static_cast<float>(1 / (std::sqrt(config_.head_dim()) * std::numbers::ln2))});
    const size_t taps = size_t{config_.taps} * hidden;
    const size_t at = reserve_floats(floats, layer.convolution, taps + hidden);
    add_vector(name("conv_dw"), at);
    changes.push_back({.at = at, .rows = hidden, .cols = config_.taps});
    add_vector(name("norm_conv"), at + taps);
  }

  CO_TRY(vectors_, buffer(floats.size() * sizeof(float), "norms", weight_bytes_));
  CO_TRY(distances_, buffer(layers_.size() * distance_bytes(), "distances", weight_bytes_));
  CO_TRY(past_, buffer(past_bytes(), "past tokens", weight_bytes_));
  CO_TRY(std::vector<float> clips, co_await read_clips(tensors, linears, source));
  CO_TRY_VOID(upload_clips(std::move(clips)));
  CO_TRY_VOID(co_await read_vectors(source, vectors, floats));
  apply_all(changes, floats);
  device_.write(vectors_, 0, std::as_bytes(std::span(floats)));
  for (const auto& [target, size] : {std::pair{&frames_[0], sizeof(kernels::Frames)},
                                     std::pair{&frames_[1], sizeof(kernels::Frames)},
                                     std::pair{&step_, sizeof(kernels::Step)}}) {
    CO_TRY(*target, device_.create_buffer(size, gpu::kParamsUsage, "audio parameters"));
  }
  CO_TRY_VOID(co_await upload_matrices(device_, cache_, source, std::move(matrices), nullptr,
                                       std::move(cancelled)));
  co_return co_await project_distances();
}

Task<Status> AudioTower::project_distances() {
  const std::vector<float> table = distance_table(config_.hidden);
  uint64_t passing_bytes = 0;
  CO_TRY(const gpu::Buffer waves, buffer(table.size() * sizeof(float), "distances", passing_bytes));
  device_.write(waves, 0, std::as_bytes(std::span(table)));
  const kernels::Step step{.tokens = kKeys};
  device_.write(step_, 0, std::as_bytes(std::span(&step, 1)));
  Program program;
  for (size_t l = 0; l < layers_.size(); ++l) {
    record_matmul(program, layers_[l].distances, distances(l), waves, step_);
  }
  CO_TRY_VOID(co_await cache_.compile());
  CO_TRY_VOID(program.bind(device_, cache_));
  gpu::CommandList list;
  list.begin_pass();
  program.record(list, cache_, kKeys);
  list.end_pass();
  device_.submit(list);
  CO_TRY_VOID(co_await device_.sync());
  for (Layer& layer : layers_) layer.distances = {};
  co_return Status{};
}

uint64_t AudioTower::distance_bytes() const {
  return round_up(uint64_t{kKeys} * config_.hidden * sizeof(float), 256);
}

gpu::Range AudioTower::distances(size_t layer) const {
  return {distances_, layer * distance_bytes(), distance_bytes()};
}

// Parts [first, first + count) of a layer's past.
gpu::Range AudioTower::past(uint32_t layer, uint32_t first, uint32_t count) const {
  const uint64_t part = uint64_t{kernels::kAudioPast} * config_.hidden * sizeof(float);
  return {past_, (uint64_t{layer} * kPastParts + first) * part, count * part};
}

uint64_t AudioTower::past_bytes() const {
  return uint64_t{config_.layers} * kPastParts * kernels::kAudioPast * config_.hidden *
         sizeof(float);
}

kernels::AudioSubsampleSpec AudioTower::subsample(uint32_t index) const {
  return {.bins = index == 0 ? audio::kMelBins : audio::kMelBins / 2,
          .in = index == 0 ? 1 : config_.channels[0],
          .out = config_.channels[index],
          .eps = config_.rms_eps};
}

Status AudioTower::allocate(uint32_t tokens) {
  scratch_ = {};
  scratch_bytes_ = 0;
  const uint64_t row = uint64_t{tokens} * sizeof(float);
  for (gpu::Buffer* narrow : {&scratch_.x[0], &scratch_.x[1], &scratch_.x[2], &scratch_.delta,
                              &scratch_.h, &scratch_.q, &scratch_.k, &scratch_.v}) {
    TRY(*narrow, buffer(row * config_.hidden, "activations", scratch_bytes_));
  }
  // Frames and rows that n tokens are made of: at most 4 n + 3, and 2 n + 1.
  const uint64_t convolved =
      (2 * uint64_t{tokens} + 1) * sizeof(float) * (audio::kMelBins / 2) * config_.channels[0];
  const uint64_t flat = row * (audio::kMelBins / 4) * config_.channels[1];
  const uint64_t wide = row * std::max({config_.ffn, 2 * config_.hidden, config_.embedding});
  TRY(scratch_.frames, buffer((4 * uint64_t{tokens} + 3) * audio::kMelBins * sizeof(float),
                              "frames", scratch_bytes_));
  TRY(scratch_.wide[0], buffer(std::max(wide, convolved), "wide activations", scratch_bytes_));
  TRY(scratch_.wide[1], buffer(std::max(wide, flat), "wide activations", scratch_bytes_));
  TRY(scratch_.soft, buffer(row * config_.output, "soft tokens", scratch_bytes_));
  scratch_.tokens = tokens;
  return {};
}

void AudioTower::record_norm(Program& program, const Site& site, const gpu::Buffer& x_old,
                             const gpu::Buffer* x_new, const gpu::Buffer& h) {
  const bool has_delta = x_new != nullptr;
  const kernels::ResidualNormSpec spec{config_.hidden, has_delta, site.has_post, true,
                                       config_.rms_eps};
  std::vector<gpu::Range> ranges{x_old};
  if (has_delta) ranges.emplace_back(scratch_.delta);
  ranges.push_back(vectors(site));
  if (has_delta) ranges.emplace_back(*x_new);
  ranges.insert(ranges.end(), {h, step_});
  program.add(cache_, kernels::residual_norm_source(spec, variant_), std::move(ranges),
              [](uint32_t tokens) { return kernels::fold_groups(tokens); });
}

void AudioTower::record_ffn(Program& program, const Linear& up, const Linear& down) {
  auto& [a, b] = scratch_.wide;
  record_linear(program, up, a, scratch_.h, step_);
  const kernels::SigmoidGateSpec silu{.width = config_.ffn, .z_stride = config_.ffn};
  program.add(cache_, kernels::sigmoid_gate_source(silu), std::vector<gpu::Range>{a, b, step_},
              [silu](uint32_t tokens) { return kernels::sigmoid_gate_groups(silu, tokens); });
  record_linear(program, down, scratch_.delta, b, step_);
}

void AudioTower::record_attention(Program& program, const Layer& layer, uint32_t index) {
  const auto& [up, down, q, k, v, out, pw1, pw2, up1, down1] = layer.linears;
  record_linear(program, q, scratch_.q, scratch_.h, step_);
  record_linear(program, k, scratch_.k, scratch_.h, step_);
  record_linear(program, v, scratch_.v, scratch_.h, step_);
  const kernels::AudioAttentionSpec spec{
      .heads = config_.heads,
      .head_dim = config_.head_dim(),
      .keys = kKeys,
      .k_scale = static_cast<float>(std::log(1 + std::numbers::e) / std::numbers::ln2),
      .cap = kCap};
  gpu::Buffer& attended = scratch_.wide[1];
  program.add(cache_, kernels::audio_attention_source(spec, variant_),
              std::vector<gpu::Range>{scratch_.q, scratch_.k, scratch_.v, past(index, 0, 2),
                                      distances(index), vectors(layer.q_scale), attended, step_},
              [spec](uint32_t tokens) { return kernels::audio_attention_groups(spec, tokens); });
  record_linear(program, out, scratch_.delta, attended, step_);
}

void AudioTower::record_convolution(Program& program, const Layer& layer, uint32_t index) {
  const auto& [up, down, q, k, v, out, pw1, pw2, up1, down1] = layer.linears;
  auto& [a, b] = scratch_.wide;
  record_linear(program, pw1, a, scratch_.h, step_);
  const kernels::SigmoidGateSpec glu{
      .width = config_.hidden, .z_stride = 2 * config_.hidden, .gate_offset = config_.hidden};
  // The queries have been used.
  program.add(cache_, kernels::sigmoid_gate_source(glu),
              std::vector<gpu::Range>{a, scratch_.q, step_},
              [glu](uint32_t tokens) { return kernels::sigmoid_gate_groups(glu, tokens); });
  const kernels::AudioConvolutionSpec spec{
      .cols = config_.hidden, .taps = config_.taps, .eps = config_.rms_eps};
  program.add(
      cache_, kernels::audio_convolution_source(spec, variant_),
      std::vector<gpu::Range>{scratch_.q, past(index, 2, 1), vectors(layer.convolution), b, step_},
      [](uint32_t tokens) { return kernels::fold_groups(tokens); });
  record_linear(program, pw2, scratch_.delta, b, step_);
}

// From x[l % 2] to the other one.
void AudioTower::record_layer(const Layer& layer, uint32_t index) {
  const auto& [up, down, q, k, v, out, pw1, pw2, up1, down1] = layer.linears;
  Program& program = layer_programs_[index];
  gpu::Buffer& in = scratch_.x[index % 2];
  gpu::Buffer& other = scratch_.x[2];
  record_norm(program, layer.before_ffn, in, nullptr, scratch_.h);
  record_ffn(program, up, down);
  record_norm(program, layer.before_attention, in, &other, scratch_.h);
  record_attention(program, layer, index);
  record_norm(program, layer.before_convolution, other, &in, scratch_.h);
  record_convolution(program, layer, index);
  record_norm(program, layer.before_second_ffn, in, &other, scratch_.h);
  record_ffn(program, up1, down1);
  record_norm(program, layer.after, other, &in, scratch_.x[(index + 1) % 2]);
}

void AudioTower::record() {
  first_.clear();
  inputs_.clear();
  outputs_.clear();
  layer_programs_.clear();
  layer_programs_.resize(layers_.size());
  auto& [a, b] = scratch_.wide;
  for (uint32_t i = 0; i < 2; ++i) {
    const kernels::AudioSubsampleSpec spec = subsample(i);
    (i == 0 ? first_ : inputs_)
        .add(cache_, kernels::audio_subsample_source(spec, variant_),
             std::vector<gpu::Range>{i == 0 ? scratch_.frames : a, vectors(subsample_[i]),
                                     i == 0 ? a : b, frames_[i]},
             [spec](uint32_t rows) { return kernels::audio_subsample_groups(spec, rows); });
  }
  record_matmul(inputs_, input_, scratch_.x[0], b, step_);
  for (uint32_t l = 0; l < config_.layers; ++l) record_layer(layers_[l], l);
  record_matmul(outputs_, output_, a, scratch_.x[config_.layers % 2], step_);
  outputs_.add(cache_, kernels::bias_norm_source(config_.embedding, config_.rms_eps, variant_),
               std::vector<gpu::Range>{a, vectors(output_bias_), b, step_},
               [](uint32_t tokens) { return kernels::fold_groups(tokens); });
  record_matmul(outputs_, projector_, scratch_.soft, b, step_);
}

Task<Status> AudioTower::prepare(uint32_t tokens) {
  if (tokens <= scratch_.tokens) co_return Status{};
  CO_TRY_VOID(allocate(static_cast<uint32_t>(round_up(tokens, kTokenStep))));
  record();
  CO_TRY_VOID(co_await cache_.compile());
  for (Program* program : {&first_, &inputs_, &outputs_})
    CO_TRY_VOID(program->bind(device_, cache_));
  for (Program& program : layer_programs_) CO_TRY_VOID(program.bind(device_, cache_));
  co_return Status{};
}

// Token t is made of frames 4 t - 3 to 4 t + 3, through rows 2 t - 1 to 2 t + 1 of the first
// convolution.
Result<AudioTower::Piece> AudioTower::take(AudioStream& stream, std::span<const float> frames,
                                           bool last) {
  const size_t count = frames.size() / audio::kMelBins;
  if (frames.size() % audio::kMelBins != 0 || count > audio::kWindowFrames - stream.frames) {
    return fail(ErrorCode::kInvalidArgument,
                cat(frames.size(), " values after ", stream.frames, " frames are no frames of ",
                    audio::kMelBins, " of one window, which has at most ", audio::kWindowFrames));
  }
  stream.kept.insert(stream.kept.end(), frames.begin(), frames.end());
  stream.frames += static_cast<uint32_t>(count);
  const uint32_t begin = stream.tokens;
  const uint32_t end = last ? audio::soft_tokens(stream.frames) : stream.frames / 4;
  Piece piece{.tokens = end - begin};
  const uint32_t offset = begin == 0 ? 0 : 1;
  const uint32_t rows =
      (last ? (stream.frames + 1) / 2 : 2 * end) - (begin == 0 ? 0 : 2 * begin - 1);
  const auto held = static_cast<uint32_t>(stream.kept.size() / audio::kMelBins);
  piece.first = {.offset = offset, .in_rows = held, .out_rows = rows};
  piece.second = {.offset = offset, .in_rows = rows, .out_rows = piece.tokens};
  return piece;
}

// Rows of the last tokens before `end`, to where the next piece looks for them.
void AudioTower::keep_past(gpu::CommandList& list, uint32_t layer, uint32_t end,
                           uint32_t tokens) const {
  const uint64_t row = uint64_t{config_.hidden} * sizeof(float);
  const gpu::Buffer* parts[kPastParts] = {&scratch_.k, &scratch_.v, &scratch_.q};
  for (uint32_t position = end - std::min(tokens, kernels::kAudioPast); position < end;) {
    const uint32_t slot = position % kernels::kAudioPast;
    const uint32_t rows = std::min(end - position, kernels::kAudioPast - slot);
    for (uint32_t part = 0; part < kPastParts; ++part) {
      list.copy(*parts[part], (position - (end - tokens)) * row, past_,
                past(layer, part, 1).offset + slot * row, rows * row);
    }
    position += rows;
  }
}

Task<Result<AudioRows>> AudioTower::run(AudioStream& stream, const Piece& piece, bool last) {
  CO_TRY_VOID(co_await prepare(piece.tokens));
  const uint64_t bytes = uint64_t{piece.tokens} * config_.output * sizeof(float);
  AudioRows out{.tokens = piece.tokens};
  CO_TRY(out.rows, device_.create_buffer(bytes, gpu::kStorageUsage, "audio"));
  if (!last && !stream.past) {
    CO_TRY(stream.past, device_.create_buffer(past_bytes(), gpu::kStorageUsage, "past tokens"));
  }
  const auto write = [&](const gpu::Buffer& target, const auto& value) {
    device_.write(target, 0, std::as_bytes(std::span(&value, 1)));
  };
  device_.write(scratch_.frames, 0, std::as_bytes(std::span(stream.kept)));
  write(frames_[0], piece.first);
  write(frames_[1], piece.second);
  write(step_, kernels::Step{.position = stream.tokens, .tokens = piece.tokens});
  gpu::CommandList list;
  const auto submit = [&] {
    device_.submit(list);
    list.reset();
  };
  const auto pass = [&](const Program& program, uint32_t n) {
    list.begin_pass();
    program.record(list, cache_, n);
    list.end_pass();
  };
  if (stream.tokens != 0) list.copy(stream.past, 0, past_, 0, past_bytes());
  pass(first_, piece.first.out_rows);
  pass(inputs_, piece.tokens);
  submit();
  // A submission a layer: a slow GPU's driver takes one that runs for seconds for hung.
  for (uint32_t l = 0; l < config_.layers; ++l) {
    pass(layer_programs_[l], piece.tokens);
    if (!last) keep_past(list, l, stream.tokens + piece.tokens, piece.tokens);
    submit();
  }
  pass(outputs_, piece.tokens);
  list.copy(scratch_.soft, 0, out.rows, 0, bytes);
  if (!last) list.copy(past_, 0, stream.past, 0, past_bytes());
  submit();
  CO_TRY_VOID(co_await device_.sync());
  co_return std::move(out);
}

Task<Result<AudioRows>> AudioTower::encode(AudioStream& stream, std::span<const float> frames,
                                           bool last) {
  AudioRows rows;
  Result<Piece> piece = take(stream, frames, last);
  Status status = piece ? Status{} : std::unexpected(piece.error());
  if (piece && piece->tokens != 0) {
    Result<AudioRows> made = co_await run(stream, *piece, last);
    if (made) {
      rows = std::move(*made);
    } else {
      scratch_ = {};
      status = std::unexpected(std::move(made).error());
    }
  }
  if (!status || last) {
    stream = {};
  } else if (rows.tokens != 0) {
    stream.tokens += rows.tokens;
    const size_t needed = stream.frames - (4 * stream.tokens - 3);
    stream.kept.erase(stream.kept.begin(),
                      stream.kept.end() - static_cast<std::ptrdiff_t>(needed * audio::kMelBins));
  }
  if (!status) co_return std::unexpected(std::move(status).error());
  co_return std::move(rows);
}

}  // namespace lapidary::model
