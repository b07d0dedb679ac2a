// One embedding and one table row a module, both sorted by name.
#include "engine/kernels/wgsl.h"

#include <span>

namespace lapidary::kernels {
namespace {

// clang-format off
constexpr char kActivationBytes[] = {
#embed "wgsl/activation_bytes.wgsl"
};
constexpr char kAdjust[] = {
#embed "wgsl/adjust.wgsl"
};
constexpr char kArgmaxFinal[] = {
#embed "wgsl/argmax_final.wgsl"
};
constexpr char kArgmaxPartial[] = {
#embed "wgsl/argmax_partial.wgsl"
};
constexpr char kArgmaxReduce[] = {
#embed "wgsl/argmax_reduce.wgsl"
};
constexpr char kAttentionDecode[] = {
#embed "wgsl/attention_decode.wgsl"
};
constexpr char kAttentionPrefill[] = {
#embed "wgsl/attention_prefill.wgsl"
};
constexpr char kBound[] = {
#embed "wgsl/bound.wgsl"
};
constexpr char kCodecBf16[] = {
#embed "wgsl/codec_bf16.wgsl"
};
constexpr char kCodecF16[] = {
#embed "wgsl/codec_f16.wgsl"
};
constexpr char kCodecF32[] = {
#embed "wgsl/codec_f32.wgsl"
};
constexpr char kCodecQ4_0[] = {
#embed "wgsl/codec_q4_0.wgsl"
};
constexpr char kCodecQ4_K[] = {
#embed "wgsl/codec_q4_k.wgsl"
};
constexpr char kCodecQ5_0[] = {
#embed "wgsl/codec_q5_0.wgsl"
};
constexpr char kCodecQ5_K[] = {
#embed "wgsl/codec_q5_k.wgsl"
};
constexpr char kCodecQ6_K[] = {
#embed "wgsl/codec_q6_k.wgsl"
};
constexpr char kCodecQ8_0[] = {
#embed "wgsl/codec_q8_0.wgsl"
};
constexpr char kDraw[] = {
#embed "wgsl/draw.wgsl"
};
constexpr char kEpilogue[] = {
#embed "wgsl/epilogue.wgsl"
};
constexpr char kGather[] = {
#embed "wgsl/gather.wgsl"
};
constexpr char kHeadRow[] = {
#embed "wgsl/head_row.wgsl"
};
constexpr char kKScales[] = {
#embed "wgsl/k_scales.wgsl"
};
constexpr char kKvCache[] = {
#embed "wgsl/kv_cache.wgsl"
};
constexpr char kLogitKey[] = {
#embed "wgsl/logit_key.wgsl"
};
constexpr char kMatmul[] = {
#embed "wgsl/matmul.wgsl"
};
constexpr char kMatmulFloat[] = {
#embed "wgsl/matmul_float.wgsl"
};
constexpr char kMatmulInteger[] = {
#embed "wgsl/matmul_integer.wgsl"
};
constexpr char kMatmulMatrix[] = {
#embed "wgsl/matmul_matrix.wgsl"
};
constexpr char kMatmulPlace[] = {
#embed "wgsl/matmul_place.wgsl"
};
constexpr char kMatvec[] = {
#embed "wgsl/matvec.wgsl"
};
constexpr char kPlanes[] = {
#embed "wgsl/planes.wgsl"
};
constexpr char kPleCombine[] = {
#embed "wgsl/ple_combine.wgsl"
};
constexpr char kQkvPost[] = {
#embed "wgsl/qkv_post.wgsl"
};
constexpr char kQuantize[] = {
#embed "wgsl/quantize.wgsl"
};
constexpr char kQuantizeHalves[] = {
#embed "wgsl/quantize_halves.wgsl"
};
constexpr char kReduce[] = {
#embed "wgsl/reduce.wgsl"
};
constexpr char kRepack[] = {
#embed "wgsl/repack.wgsl"
};
constexpr char kResidualNorm[] = {
#embed "wgsl/residual_norm.wgsl"
};
constexpr char kSample[] = {
#embed "wgsl/sample.wgsl"
};
constexpr char kSampleParams[] = {
#embed "wgsl/sample_params.wgsl"
};
constexpr char kSplits[] = {
#embed "wgsl/splits.wgsl"
};
constexpr char kStep[] = {
#embed "wgsl/step.wgsl"
};
constexpr char kTokenSpans[] = {
#embed "wgsl/token_spans.wgsl"
};
constexpr char kTopk[] = {
#embed "wgsl/topk.wgsl"
};
constexpr char kTopkSelect[] = {
#embed "wgsl/topk_select.wgsl"
};
constexpr char kWorkgroupReduce[] = {
#embed "wgsl/workgroup_reduce.wgsl"
};
// clang-format on

struct Module {
  std::string_view name;
  std::span<const char> text;
};
constexpr Module kModules[] = {
    {"activation_bytes.wgsl", kActivationBytes},
    {"adjust.wgsl", kAdjust},
    {"argmax_final.wgsl", kArgmaxFinal},
    {"argmax_partial.wgsl", kArgmaxPartial},
    {"argmax_reduce.wgsl", kArgmaxReduce},
    {"attention_decode.wgsl", kAttentionDecode},
    {"attention_prefill.wgsl", kAttentionPrefill},
    {"bound.wgsl", kBound},
    {"codec_bf16.wgsl", kCodecBf16},
    {"codec_f16.wgsl", kCodecF16},
    {"codec_f32.wgsl", kCodecF32},
    {"codec_q4_0.wgsl", kCodecQ4_0},
    {"codec_q4_k.wgsl", kCodecQ4_K},
    {"codec_q5_0.wgsl", kCodecQ5_0},
    {"codec_q5_k.wgsl", kCodecQ5_K},
    {"codec_q6_k.wgsl", kCodecQ6_K},
    {"codec_q8_0.wgsl", kCodecQ8_0},
    {"draw.wgsl", kDraw},
    {"epilogue.wgsl", kEpilogue},
    {"gather.wgsl", kGather},
    {"head_row.wgsl", kHeadRow},
    {"k_scales.wgsl", kKScales},
    {"kv_cache.wgsl", kKvCache},
    {"logit_key.wgsl", kLogitKey},
    {"matmul.wgsl", kMatmul},
    {"matmul_float.wgsl", kMatmulFloat},
    {"matmul_integer.wgsl", kMatmulInteger},
    {"matmul_matrix.wgsl", kMatmulMatrix},
    {"matmul_place.wgsl", kMatmulPlace},
    {"matvec.wgsl", kMatvec},
    {"planes.wgsl", kPlanes},
    {"ple_combine.wgsl", kPleCombine},
    {"qkv_post.wgsl", kQkvPost},
    {"quantize.wgsl", kQuantize},
    {"quantize_halves.wgsl", kQuantizeHalves},
    {"reduce.wgsl", kReduce},
    {"repack.wgsl", kRepack},
    {"residual_norm.wgsl", kResidualNorm},
    {"sample.wgsl", kSample},
    {"sample_params.wgsl", kSampleParams},
    {"splits.wgsl", kSplits},
    {"step.wgsl", kStep},
    {"token_spans.wgsl", kTokenSpans},
    {"topk.wgsl", kTopk},
    {"topk_select.wgsl", kTopkSelect},
    {"workgroup_reduce.wgsl", kWorkgroupReduce},
};

}  // namespace

std::string_view wgsl(std::string_view name) {
  for (const Module& module : kModules) {
    if (module.name == name) return {module.text.data(), module.text.size()};
  }
  return {};
}

}  // namespace lapidary::kernels
