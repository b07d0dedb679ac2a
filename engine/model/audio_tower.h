// The audio tower on the GPU: log-mel frames to rows for the text model's residual stream
// (gemma4.md §8.2). Tokens look back only, so that a window can be encoded while it is recorded:
// what later tokens need of earlier ones is kept in an AudioStream.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/audio/audio.h"
#include "engine/kernels/audio.h"
#include "engine/model/audio_config.h"
#include "engine/model/tower.h"

namespace lapidary::model {

// A window that is being encoded. Empty: one to begin.
struct AudioStream {
  uint32_t tokens = 0;      // encoded so far
  uint32_t frames = 0;      // taken so far
  std::vector<float> kept;  // the last of them, from which the next tokens are made
  gpu::Buffer past;         // of the layers: keys, values and inputs of the convolution
};

struct AudioRows {
  gpu::Buffer rows;  // f32 [tokens][output]; none where there are no tokens
  uint32_t tokens = 0;
};

class AudioTower : public Tower {
 public:
  // Streams the weights from byte source `source`. cancelled(): polled between pieces. Errors of
  // the source, kInvalidFormat for clip ranges that are none, kOutOfMemory.
  static Task<Result<std::unique_ptr<AudioTower>>> load(
      gpu::Device& device, const AudioConfig& config, const AudioTensors& tensors, uint32_t source,
      const kernels::Variant& variant, std::function<bool()> cancelled);

  // The soft tokens that the next frames complete: f32 [n][kMelBins] as LogMel gives them, any
  // number of them. last: of this window, which is then complete, and `stream` is empty again. All
  // frames at once or in pieces, the rows are the same: audio::soft_tokens(frames) together. Not to
  // be called again, for any stream, before it has ended. kInvalidArgument: no whole frames, or
  // more than kWindowFrames; kOutOfMemory. After an error the stream is empty.
  Task<Result<AudioRows>> encode(AudioStream& stream, std::span<const float> frames, bool last);

 private:
  static constexpr size_t kLinears = kAudioLinears.size();
  struct Layer {
    std::array<Linear, kLinears> linears;
    Site before_ffn, before_attention, before_convolution, before_second_ffn, after;
    Site q_scale, convolution;
    MatrixGroup distances;  // only while the tower is loaded
  };
  struct Scratch {
    uint32_t tokens = 0;  // that there is room for
    gpu::Buffer frames, x[3], delta, h, q, k, v, soft;
    gpu::Buffer wide[2];  // one after the other: convolved frames; ffn; attention; gates
  };
  // What a call is to do: the frames it needs lie in the stream.
  struct Piece {
    uint32_t tokens = 0;
    kernels::Frames first, second;  // of the two convolutions
  };

  AudioTower(gpu::Device& device, const AudioConfig& config, const kernels::Variant& variant)
      : Tower(device, variant, "audio"), config_(config) {}
  Task<Status> load_weights(const AudioTensors& tensors, uint32_t source,
                            std::function<bool()> cancelled);
  // Positions as the keys meet them, once and for all.
  Task<Status> project_distances();
  // Room for so many tokens, and programs over it.
  Task<Status> prepare(uint32_t tokens);
  Status allocate(uint32_t tokens);
  void record();
  void record_layer(const Layer& layer, uint32_t index);
  void record_ffn(Program& program, const Linear& up, const Linear& down);
  void record_attention(Program& program, const Layer& layer, uint32_t index);
  void record_convolution(Program& program, const Layer& layer, uint32_t index);
  void record_norm(Program& program, const Site& site, const gpu::Buffer& x_old,
                   const gpu::Buffer* x_new, const gpu::Buffer& h);
  uint64_t distance_bytes() const;
  gpu::Range distances(size_t layer) const;
  gpu::Range past(uint32_t layer, uint32_t first, uint32_t count) const;
  uint64_t past_bytes() const;
  kernels::AudioSubsampleSpec subsample(uint32_t index) const;

  static Result<Piece> take(AudioStream& stream, std::span<const float> frames, bool last);
  Task<Result<AudioRows>> run(AudioStream& stream, const Piece& piece, bool last);
  void keep_past(gpu::CommandList& list, uint32_t layer, uint32_t end, uint32_t tokens) const;

  AudioConfig config_;
  MatrixGroup input_, output_, projector_;
  std::vector<Layer> layers_;
  Site subsample_[2], output_bias_;
  gpu::Buffer distances_, past_;

  Scratch scratch_;
  gpu::Buffer frames_[2], step_;
  Program first_, inputs_, outputs_;
  std::vector<Program> layer_programs_;
};

}  // namespace lapidary::model
