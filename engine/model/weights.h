// The weights of a text model on the GPU: which bytes of the file go to which buffer, in which
// layout, and the stream that puts them there. No tensor ever lies in the wasm heap; only vectors
// (norms, scales) pass through it, and rows of a table that stays in its source (row_source.h).
// Layers that do not fit take turns in buffers that they share (layer_stream.h).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/gguf/header.h"
#include "engine/gpu/device.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/layout.h"
#include "engine/model/config.h"
#include "engine/model/expert_cache.h"
#include "engine/model/tensor_loader.h"

namespace lapidary::model {

// A buffer that several may bind in turn.
class SharedBuffer {
 public:
  SharedBuffer() = default;
  // NOLINTBEGIN(google-explicit-constructor): it stands for its buffer
  SharedBuffer(gpu::Buffer buffer)
      : buffer_(std::make_shared<const gpu::Buffer>(std::move(buffer))) {}
  operator gpu::Range() const { return buffer_ ? gpu::Range(*buffer_) : gpu::Range(kNone); }
  // NOLINTEND(google-explicit-constructor)
  const gpu::Buffer* get() const { return buffer_.get(); }

 private:
  static inline const gpu::Buffer kNone;
  std::shared_ptr<const gpu::Buffer> buffer_;
};

// The matrices that one dispatch multiplies by the same input, in one buffer; in several, by as
// many dispatches, where this adapter can bind no buffer so large.
struct MatrixGroup {
  struct Part {
    SharedBuffer buffer;
    std::vector<kernels::Segment> segments;
    uint32_t row = 0;  // of y, that its first one gives
  };
  SharedBuffer buffer;  // none where there are parts
  std::vector<kernels::Segment> segments;
  uint32_t cols = 0;
  std::vector<Part> parts;  // several, or none
  // Of gate and up each part has the same rows: then y[row] is the first that they give together.
  bool paired = false;

  bool split() const { return !parts.empty(); }
  // The dispatches that a product of the group is: use(segments, row of y, buffer). together: rows
  // of a pair give one row of y.
  template <typename Use>
  void for_each_part(bool together, Use use) const {
    for (const Part& part : parts) {
      if (!paired || together) {
        use(part.segments, part.row, part.buffer);
        continue;
      }
      use({part.segments[0]}, part.row, part.buffer);
      use({part.segments[1]}, segments[0].rows + part.row, part.buffer);
    }
  }
};

// A table of rows by token id. A table larger than one binding lies in several parts.
struct Table {
  struct Part {
    gpu::Buffer buffer;
    uint32_t row_begin = 0;
    uint32_t rows = 0;
  };
  kernels::Codec codec = kernels::Codec::kF32;
  uint32_t rows = 0;
  uint32_t cols = 0;
  std::vector<Part> parts;
};

// Where the per-layer embedding is: it may be larger than all other weights together, and of it a
// token needs one row.
enum class TablePlace : uint8_t { kGpu, kSource };

// What stays on the GPU.
struct WeightPlaces {
  TablePlace per_layer = TablePlace::kGpu;
  uint32_t resident = UINT32_MAX;  // layers from the first on; the others are streamed
  uint32_t expert_slots = 0;       // of each layer; 0: all experts of layers that stay
};

// GPU memory of weights, by what they are.
struct WeightBytes {
  uint64_t tables = 0;     // embeddings and head
  uint64_t per_layer = 0;  // the table of per-layer embeddings
  uint64_t dense = 0;      // matrices that every token passes
  uint64_t experts = 0;
  uint64_t vectors = 0;  // norms, scales, rotary tables

  uint64_t total() const { return tables + per_layer + dense + experts + vectors; }
};

// A table that stays in its source, and where its rows lie there.
struct SourceTable {
  uint32_t source = 0;
  uint64_t offset = 0;
  gguf::TensorType type = gguf::TensorType::kF32;
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint64_t row_bytes = 0;
};

// A range of Weights::vectors. For norms between matrices see kernels/matvec.h: post, pre, scale.
struct Site {
  uint64_t offset = 0;  // bytes, aligned for a binding
  uint64_t bytes = 0;
  bool has_post = true;
  bool has_pre = true;
};

// Matrices of all experts, or of slots for some of them (expert_cache.h), in parts of whole ones:
// all of them are larger than a binding of some adapters. Segments are the first one's rows
// (kernels::ExpertRows).
struct ExpertMatrices {
  struct Part {
    SharedBuffer buffer;
    std::vector<kernels::Segment> segments;
    uint32_t first = 0;
    uint32_t count = 0;
  };
  std::vector<Part> parts;
  uint32_t cols = 0;
  uint32_t stride = 0;  // rows from one expert's to the next's
};

// A layer's mixture of experts beside its dense network.
struct ExpertWeights {
  MatrixGroup router;
  ExpertMatrices gate_up;
  ExpertMatrices down;
  Site before_router;  // nothing; the router's scale / sqrt(hidden)
  Site before;         // nothing; pre_ffw_norm_2
  Site after;          // f32 [2][hidden]: post_ffw_norm_1, of the dense network, post_ffw_norm_2
  Site scales;         // f32 [experts], of their outputs
};

struct LayerWeights {
  MatrixGroup qkv;      // q; k unless shared; v unless shared or made from k
  MatrixGroup output;   // attention output
  MatrixGroup gate_up;  // gate, up
  MatrixGroup down;
  MatrixGroup ple_gate;  // per-layer embedding only
  MatrixGroup ple_proj;
  Site before_attention;  // previous layer's last norm and scale; attn_norm
  Site before_ffn;        // post_attention_norm; ffn_norm
  Site before_ple;        // post_ffw_norm; nothing
  Site qk_norms;          // q_norm, k_norm
  ExpertWeights experts;
};

struct Weights {
  // Whether a group of a layer's matrices lies in several buffers.
  bool splits_groups() const;

  Table token_embd;
  Table output;                // no parts when tied to token_embd
  Table per_layer_token_embd;  // no parts when it stays in the source
  std::optional<SourceTable> per_layer_source;
  MatrixGroup per_layer_model_proj;
  Site per_layer_proj_norm;
  Site before_head;  // last layer's norm and scale; output_norm
  std::vector<LayerWeights> layers;
  gpu::Buffer vectors;
  // Rotary tables of kernels/rope.h, and how many pairs of a head they turn.
  gpu::Buffer rope_sliding, rope_global;
  uint32_t rotated_sliding = 0, rotated_global = 0;
  uint32_t resident = 0;  // layers from the first on that are always here
  // Of the others, which share their buffers: brings one of them, numbered from `resident` on.
  std::unique_ptr<LayerStream> stream;
  std::unique_ptr<ExpertCache> experts;  // where slots keep some of them
  WeightBytes bytes;                     // of all of the above

  const Table& head() const { return output.parts.empty() ? token_embd : output; }
  const gpu::Buffer& rope(const LayerConfig& layer) const {
    return layer.sliding ? rope_sliding : rope_global;
  }
};

// What a layer's attention is; how its cache lies (slots, sequences, kv_type) is left to the
// caller.
kernels::AttentionSpec attention_shape(const Config& config, const Weights& weights, size_t layer);

// Streams the tensors of `header` from byte source `source`. The tensors have passed check_tensors.
// What `places` leaves in the source is read from there as long as the model lives. context: the
// positions that the rotary tables must reach. cancelled(): polled between pieces. kOutOfMemory,
// before anything is uploaded, when the GPU has no room for them.
Task<Result<Weights>> load_weights(gpu::Device& device, kernels::KernelCache& cache,
                                   const gguf::Header& header, const Config& config,
                                   uint32_t source, WeightPlaces places, uint32_t context,
                                   LoadProgress progress, std::function<bool()> cancelled);

// What they would take: shapes and sizes, with nothing behind them. layers: of the matrices of each
// layer, by buffer.
struct WeightShapes {
  Weights weights;
  std::vector<std::vector<uint64_t>> layers;
  uint64_t staging = 0;         // while they are loaded
  uint64_t stream_staging = 0;  // while layers are streamed
  uint64_t expert_slot = 0;     // a slot in each layer
  uint64_t expert_staging = 0;  // while experts are read
};
// device: one that makes nothing.
Result<WeightShapes> measure_weights(gpu::Device& device, const gguf::Header& header,
                                     const Config& config, TablePlace per_layer, uint32_t context);

}  // namespace lapidary::model
