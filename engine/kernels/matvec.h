// y = W x for one token, or for one of each of several sequences in a dispatch, W a group of
// quantised matrices; what comes before (norms, the merge of attention splits) and after (GeGLU,
// softcap) is fused into the same dispatch.
#pragma once

#include <bit>
#include <optional>
#include <vector>

#include "engine/kernels/attention.h"
#include "engine/kernels/compose.h"
#include "engine/kernels/fused_change.h"

namespace lapidary::kernels {

// What makes the input vector h[cols]. All f32. rms(v) = v / sqrt(mean(v^2) + eps).
// A norm site is one buffer of 2 cols + 1 floats, its range padded to whole 16 bytes: post[cols] at
// 0, pre[cols] at cols, scale at 2 cols. Absent parts keep their place and are not read (has_post,
// has_pre); scale is always there. With a norm, cols is a multiple of 4.
enum class Prologue : uint8_t {
  kPlain,  // r x[cols]:                        h = x
  kNorm,   // r x[cols], r site:                h = rms(x) * pre          (post, scale unused)
  kResidualNorm,  // r x_old[cols], r delta[cols], r site, w x_new[cols]:
                  //   x_new = (x_old + (has_post ? rms(delta) * post : delta)) * scale
                  //   h = has_pre ? rms(x_new) * pre : x_new
  kMerge,      // r partial[splits][heads][head_dim], r stats[splits][heads][2] (max, sum), u step:
               //   h = the attention output of all splits; cols = heads * head_dim
  kQuantized,  // r quantized[cols]: what another matvec wrote with `quantizes`; cols % 32 == 0
};

enum class Epilogue : uint8_t {
  kStore,    // y[row] = acc
  kGeglu,    // two segments of equal rows: y[row] = gelu_tanh(gate) * up
  kGeluMul,  // r mul[rows]: y[row] = gelu_tanh(acc) * mul[row]
  kSoftcap,  // y[row] = cap * tanh(acc / cap)
};

// Values of y that a token has.
inline uint32_t output_rows(std::span<const Segment> segments, Epilogue epilogue) {
  return epilogue == Epilogue::kGeglu ? segments[0].rows : total_rows(segments);
}

// How a matvec is cut: a workgroup of `threads`, `lanes` of them on a row, each on `rows` rows.
struct MatvecTiling {
  uint32_t threads;  // a power of two, 32 to 256
  uint32_t lanes;    // a power of two, <= threads
  uint32_t rows;     // rows a thread works on at once, 1 to 8
};

constexpr bool is_valid(const MatvecTiling& t) {
  return std::has_single_bit(t.threads) && t.threads >= 32 && t.threads <= 256 &&
         std::has_single_bit(t.lanes) && t.lanes <= t.threads && t.rows >= 1 && t.rows <= 8;
}

// The cut of `spec`: its own, else one chosen from the shape.
MatvecTiling tiling_of(const struct MatvecSpec& spec);
// Whether a kernel of that cut can be made: valid, and its workgroup memory is within what every
// device has.
bool fits(const struct MatvecSpec& spec, const MatvecTiling& tiling, const Variant& variant);
// A cut whose kernel is short, for software GPUs (Variant::light).
MatvecTiling light_tiling(const struct MatvecSpec& spec);

// Where the tokens of a dispatch have their rows of what is bound: so many floats from one token's
// to the next's, multiples of 4 where a binding is of vectors. What is not named here (weights,
// sites, adapters) is theirs together.
struct TokenStrides {
  uint32_t y = 0;
  uint32_t input = 0;  // x, x_old or partial
  uint32_t delta = 0;
  uint32_t stream = 0;  // x_new, residual
  uint32_t stats = 0;
  uint32_t mul = 0;
};

// A mixture of experts: W is all of them or some, and each token is multiplied by those chosen for
// it (experts.h). Segments are the first expert's rows of the matrices that hold them all.
struct ExpertRows {
  uint32_t used = 1;    // of a token
  uint32_t stride = 0;  // rows of the matrices from one expert's to the next's
  uint32_t first = 0;   // W has experts [first, first + count); outputs of others are left alone
  uint32_t count = 0;
  bool shared_input = false;  // a token's experts have the same input
  uint32_t all = 0;           // experts of the mixture; of matmuls only
};

struct MatvecSpec {
  std::vector<Segment> segments;
  uint32_t cols = 0;
  Prologue prologue = Prologue::kPlain;
  Epilogue epilogue = Epilogue::kStore;
  uint32_t row_offset = 0;  // y[row_offset] is the first row: for a matrix in several parts
  float eps = 1e-6f;
  float cap = 30.0f;        // kSoftcap
  uint32_t mul_offset = 0;  // kGeluMul: the factor of row r is mul[mul_offset + r]
  // kGeglu: y is quantised, as a matvec of the same variant multiplies it (can_hand_over). Of
  // V = 4 vectors of 16 bytes a unit of 32 rows, vector v of unit u at v * units + u: the high
  // bytes of rows 0-15 and 16-31, then their low bytes (kInt8: V = 2, without those); then a vector
  // a unit: scale and sum of either half. A value is scale * (128 * high + low), or scale * high.
  bool quantizes = false;
  bool has_post = true;
  bool has_pre = true;
  // kMerge, as in attention.h; heads * attention.splits <= 2048.
  uint32_t heads = 0;
  uint32_t head_dim = 0;
  uint32_t window = 0;
  AttentionTiling attention;
  // A low-rank change that the kernel makes. Parts: not with kNorm, with kMerge of one part and a
  // head_dim that is a multiple of 4, else cols are. What its A h is made from lies behind delta,
  // partial or x (as if that held f32), what it passes on behind y (fused_change.h). next: not with
  // a norm, row_offset 0. handed: with kGeglu.
  FusedChange fused;
  // Chosen from the shape when absent.
  std::optional<MatvecTiling> tiling;
  // For several tokens, each of which is computed as it is alone, bit for bit. Workgroups of the
  // same rows of W run side by side, so that a weight comes from memory once. With kMerge the last
  // binding is u steps, array<Step, kMaxStepRows>, instead of u step.
  std::optional<TokenStrides> tokens;
  // With `tokens`; not with kMerge or a fused change. y, and an input that is not shared, have a
  // row for each of a token's experts: the strides are those rows'.
  std::optional<ExpertRows> experts;
};

// Bindings: 0 r weights, 1 w y, then the prologue's and the epilogue's in the order listed above,
// with a fused change r adapter, and for `next` r the residual stream f32 [hidden]; with experts r
// chosen (experts.h); last u step where the prologue has it. y[row]: the rows of segment 0, then of
// segment 1, ...
KernelSource matvec_source(const MatvecSpec& spec, const Variant& variant);
// tokens: 1, or with spec.tokens those there are, at most 65,535, with experts used * tokens.
Groups matvec_groups(const MatvecSpec& spec, uint32_t tokens = 1);
// With a handed change: the pieces of the next product's A h, one a workgroup.
uint32_t handed_pieces(const MatvecSpec& spec);
// Whether `first` can quantise its output for `second`, both as the variant would run them: y's
// blocks of 16 rows must lie in one workgroup each, and both must multiply integers.
bool can_hand_over(const MatvecSpec& first, const MatvecSpec& second, const Variant& variant);
// Bytes of a vector of `values` that is handed over, at most.
constexpr uint64_t handed_over_bytes(uint64_t values) { return values / 32 * 5 * 16; }
// Names what a cut is chosen for: shapes, codecs, what is fused, and the form of the kernel.
std::string tuning_key(const MatvecSpec& spec, const Variant& variant);

}  // namespace lapidary::kernels
