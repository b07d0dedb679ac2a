// One embedding and one table row a module, both sorted by name. Embedded is the text without
// comments and indentation, which the build writes (cmake/strip_wgsl.cmake). A compiler cache does
// not see what #embed reads (ccache:disable).
#include "engine/kernels/wgsl.h"

#include <span>

namespace lapidary::kernels {
namespace {

// clang-format off
constexpr char kActivationBytes[] = {
#embed <activation_bytes.wgsl>
};
constexpr char kAdamw[] = {
#embed <adamw.wgsl>
};
constexpr char kAdapter[] = {
#embed <adapter.wgsl>
};
constexpr char kAddPositions[] = {
#embed <add_positions.wgsl>
};
constexpr char kAdjust[] = {
#embed <adjust.wgsl>
};
constexpr char kArgmaxFinal[] = {
#embed <argmax_final.wgsl>
};
constexpr char kArgmaxPartial[] = {
#embed <argmax_partial.wgsl>
};
constexpr char kArgmaxReduce[] = {
#embed <argmax_reduce.wgsl>
};
constexpr char kArrange[] = {
#embed <arrange.wgsl>
};
constexpr char kAttentionBack[] = {
#embed <attention_back.wgsl>
};
constexpr char kAttentionDecode[] = {
#embed <attention_decode.wgsl>
};
constexpr char kAttentionDelta[] = {
#embed <attention_delta.wgsl>
};
constexpr char kAttentionPairs[] = {
#embed <attention_pairs.wgsl>
};
constexpr char kAttentionPrefill[] = {
#embed <attention_prefill.wgsl>
};
constexpr char kAttentionTrain[] = {
#embed <attention_train.wgsl>
};
constexpr char kAudioAttention[] = {
#embed <audio_attention.wgsl>
};
constexpr char kAudioConvolution[] = {
#embed <audio_convolution.wgsl>
};
constexpr char kAudioSubsample[] = {
#embed <audio_subsample.wgsl>
};
constexpr char kBiasNorm[] = {
#embed <bias_norm.wgsl>
};
constexpr char kBound[] = {
#embed <bound.wgsl>
};
constexpr char kChooseExperts[] = {
#embed <choose_experts.wgsl>
};
constexpr char kCodecBf16[] = {
#embed <codec_bf16.wgsl>
};
constexpr char kCodecF16[] = {
#embed <codec_f16.wgsl>
};
constexpr char kCodecF32[] = {
#embed <codec_f32.wgsl>
};
constexpr char kCodecIQ4_NL[] = {
#embed <codec_iq4_nl.wgsl>
};
constexpr char kCodecIQ4_XS[] = {
#embed <codec_iq4_xs.wgsl>
};
constexpr char kCodecMXFP4[] = {
#embed <codec_mxfp4.wgsl>
};
constexpr char kCodecQ2_K[] = {
#embed <codec_q2_k.wgsl>
};
constexpr char kCodecQ3_K[] = {
#embed <codec_q3_k.wgsl>
};
constexpr char kCodecQ4_0[] = {
#embed <codec_q4_0.wgsl>
};
constexpr char kCodecQ4_1[] = {
#embed <codec_q4_1.wgsl>
};
constexpr char kCodecQ4_K[] = {
#embed <codec_q4_k.wgsl>
};
constexpr char kCodecQ5_0[] = {
#embed <codec_q5_0.wgsl>
};
constexpr char kCodecQ5_1[] = {
#embed <codec_q5_1.wgsl>
};
constexpr char kCodecQ5_K[] = {
#embed <codec_q5_k.wgsl>
};
constexpr char kCodecQ6_K[] = {
#embed <codec_q6_k.wgsl>
};
constexpr char kCodecQ8_0[] = {
#embed <codec_q8_0.wgsl>
};
constexpr char kCopyRows[] = {
#embed <copy_rows.wgsl>
};
constexpr char kCrossEntropy[] = {
#embed <cross_entropy.wgsl>
};
constexpr char kCrossEntropyBack[] = {
#embed <cross_entropy_back.wgsl>
};
constexpr char kCrossEntropyLoss[] = {
#embed <cross_entropy_loss.wgsl>
};
constexpr char kCrossEntropySum[] = {
#embed <cross_entropy_sum.wgsl>
};
constexpr char kDraw[] = {
#embed <draw.wgsl>
};
constexpr char kDropout[] = {
#embed <dropout.wgsl>
};
constexpr char kEpilogue[] = {
#embed <epilogue.wgsl>
};
constexpr char kFusedChange[] = {
#embed <fused_change.wgsl>
};
constexpr char kGate[] = {
#embed <gate.wgsl>
};
constexpr char kGateBack[] = {
#embed <gate_back.wgsl>
};
constexpr char kGather[] = {
#embed <gather.wgsl>
};
constexpr char kGemm[] = {
#embed <gemm.wgsl>
};
constexpr char kGrid[] = {
#embed <grid.wgsl>
};
constexpr char kHandLow[] = {
#embed <hand_low.wgsl>
};
constexpr char kHandOver[] = {
#embed <hand_over.wgsl>
};
constexpr char kHeadRow[] = {
#embed <head_row.wgsl>
};
constexpr char kImagePatches[] = {
#embed <image_patches.wgsl>
};
constexpr char kIq4Table[] = {
#embed <iq4_table.wgsl>
};
constexpr char kKScales[] = {
#embed <k_scales.wgsl>
};
constexpr char kKvCache[] = {
#embed <kv_cache.wgsl>
};
constexpr char kLayerNorm[] = {
#embed <layer_norm.wgsl>
};
constexpr char kLogitKey[] = {
#embed <logit_key.wgsl>
};
constexpr char kLowRankAdd[] = {
#embed <low_rank_add.wgsl>
};
constexpr char kMatmul[] = {
#embed <matmul.wgsl>
};
constexpr char kMatmulBack[] = {
#embed <matmul_back.wgsl>
};
constexpr char kMatmulFloat[] = {
#embed <matmul_float.wgsl>
};
constexpr char kMatmulInteger[] = {
#embed <matmul_integer.wgsl>
};
constexpr char kMatmulMatrix[] = {
#embed <matmul_matrix.wgsl>
};
constexpr char kMatmulPlace[] = {
#embed <matmul_place.wgsl>
};
constexpr char kMatmulTokens[] = {
#embed <matmul_tokens.wgsl>
};
constexpr char kMatvec[] = {
#embed <matvec.wgsl>
};
constexpr char kMixExperts[] = {
#embed <mix_experts.wgsl>
};
constexpr char kOwnUnit[] = {
#embed <own_unit.wgsl>
};
constexpr char kPlanes[] = {
#embed <planes.wgsl>
};
constexpr char kPleCombine[] = {
#embed <ple_combine.wgsl>
};
constexpr char kQkvBack[] = {
#embed <qkv_back.wgsl>
};
constexpr char kQkvPost[] = {
#embed <qkv_post.wgsl>
};
constexpr char kQkvTrain[] = {
#embed <qkv_train.wgsl>
};
constexpr char kQuantize[] = {
#embed <quantize.wgsl>
};
constexpr char kQuantizeHalves[] = {
#embed <quantize_halves.wgsl>
};
constexpr char kReduce[] = {
#embed <reduce.wgsl>
};
constexpr char kRepack[] = {
#embed <repack.wgsl>
};
constexpr char kResidualNorm[] = {
#embed <residual_norm.wgsl>
};
constexpr char kResidualNormBack[] = {
#embed <residual_norm_back.wgsl>
};
constexpr char kSample[] = {
#embed <sample.wgsl>
};
constexpr char kSampleParams[] = {
#embed <sample_params.wgsl>
};
constexpr char kSigmoidGate[] = {
#embed <sigmoid_gate.wgsl>
};
constexpr char kSortExperts[] = {
#embed <sort_experts.wgsl>
};
constexpr char kSplits[] = {
#embed <splits.wgsl>
};
constexpr char kStep[] = {
#embed <step.wgsl>
};
constexpr char kSumHeads[] = {
#embed <sum_heads.wgsl>
};
constexpr char kSumSquares[] = {
#embed <sum_squares.wgsl>
};
constexpr char kTokenSpans[] = {
#embed <token_spans.wgsl>
};
constexpr char kTopk[] = {
#embed <topk.wgsl>
};
constexpr char kTopkSelect[] = {
#embed <topk_select.wgsl>
};
constexpr char kVisionHeads[] = {
#embed <vision_heads.wgsl>
};
constexpr char kVisionPool[] = {
#embed <vision_pool.wgsl>
};
constexpr char kWorkgroupReduce[] = {
#embed <workgroup_reduce.wgsl>
};
// clang-format on

struct Module {
  std::string_view name;
  std::span<const char> text;
};
constexpr Module kModules[] = {
    {"activation_bytes.wgsl", kActivationBytes},
    {"adamw.wgsl", kAdamw},
    {"adapter.wgsl", kAdapter},
    {"add_positions.wgsl", kAddPositions},
    {"adjust.wgsl", kAdjust},
    {"argmax_final.wgsl", kArgmaxFinal},
    {"argmax_partial.wgsl", kArgmaxPartial},
    {"argmax_reduce.wgsl", kArgmaxReduce},
    {"arrange.wgsl", kArrange},
    {"attention_back.wgsl", kAttentionBack},
    {"attention_decode.wgsl", kAttentionDecode},
    {"attention_delta.wgsl", kAttentionDelta},
    {"attention_pairs.wgsl", kAttentionPairs},
    {"attention_prefill.wgsl", kAttentionPrefill},
    {"attention_train.wgsl", kAttentionTrain},
    {"audio_attention.wgsl", kAudioAttention},
    {"audio_convolution.wgsl", kAudioConvolution},
    {"audio_subsample.wgsl", kAudioSubsample},
    {"bias_norm.wgsl", kBiasNorm},
    {"bound.wgsl", kBound},
    {"choose_experts.wgsl", kChooseExperts},
    {"codec_bf16.wgsl", kCodecBf16},
    {"codec_f16.wgsl", kCodecF16},
    {"codec_f32.wgsl", kCodecF32},
    {"codec_iq4_nl.wgsl", kCodecIQ4_NL},
    {"codec_iq4_xs.wgsl", kCodecIQ4_XS},
    {"codec_mxfp4.wgsl", kCodecMXFP4},
    {"codec_q2_k.wgsl", kCodecQ2_K},
    {"codec_q3_k.wgsl", kCodecQ3_K},
    {"codec_q4_0.wgsl", kCodecQ4_0},
    {"codec_q4_1.wgsl", kCodecQ4_1},
    {"codec_q4_k.wgsl", kCodecQ4_K},
    {"codec_q5_0.wgsl", kCodecQ5_0},
    {"codec_q5_1.wgsl", kCodecQ5_1},
    {"codec_q5_k.wgsl", kCodecQ5_K},
    {"codec_q6_k.wgsl", kCodecQ6_K},
    {"codec_q8_0.wgsl", kCodecQ8_0},
    {"copy_rows.wgsl", kCopyRows},
    {"cross_entropy.wgsl", kCrossEntropy},
    {"cross_entropy_back.wgsl", kCrossEntropyBack},
    {"cross_entropy_loss.wgsl", kCrossEntropyLoss},
    {"cross_entropy_sum.wgsl", kCrossEntropySum},
    {"draw.wgsl", kDraw},
    {"dropout.wgsl", kDropout},
    {"epilogue.wgsl", kEpilogue},
    {"fused_change.wgsl", kFusedChange},
    {"gate.wgsl", kGate},
    {"gate_back.wgsl", kGateBack},
    {"gather.wgsl", kGather},
    {"gemm.wgsl", kGemm},
    {"grid.wgsl", kGrid},
    {"hand_low.wgsl", kHandLow},
    {"hand_over.wgsl", kHandOver},
    {"head_row.wgsl", kHeadRow},
    {"image_patches.wgsl", kImagePatches},
    {"iq4_table.wgsl", kIq4Table},
    {"k_scales.wgsl", kKScales},
    {"kv_cache.wgsl", kKvCache},
    {"layer_norm.wgsl", kLayerNorm},
    {"logit_key.wgsl", kLogitKey},
    {"low_rank_add.wgsl", kLowRankAdd},
    {"matmul.wgsl", kMatmul},
    {"matmul_back.wgsl", kMatmulBack},
    {"matmul_float.wgsl", kMatmulFloat},
    {"matmul_integer.wgsl", kMatmulInteger},
    {"matmul_matrix.wgsl", kMatmulMatrix},
    {"matmul_place.wgsl", kMatmulPlace},
    {"matmul_tokens.wgsl", kMatmulTokens},
    {"matvec.wgsl", kMatvec},
    {"mix_experts.wgsl", kMixExperts},
    {"own_unit.wgsl", kOwnUnit},
    {"planes.wgsl", kPlanes},
    {"ple_combine.wgsl", kPleCombine},
    {"qkv_back.wgsl", kQkvBack},
    {"qkv_post.wgsl", kQkvPost},
    {"qkv_train.wgsl", kQkvTrain},
    {"quantize.wgsl", kQuantize},
    {"quantize_halves.wgsl", kQuantizeHalves},
    {"reduce.wgsl", kReduce},
    {"repack.wgsl", kRepack},
    {"residual_norm.wgsl", kResidualNorm},
    {"residual_norm_back.wgsl", kResidualNormBack},
    {"sample.wgsl", kSample},
    {"sample_params.wgsl", kSampleParams},
    {"sigmoid_gate.wgsl", kSigmoidGate},
    {"sort_experts.wgsl", kSortExperts},
    {"splits.wgsl", kSplits},
    {"step.wgsl", kStep},
    {"sum_heads.wgsl", kSumHeads},
    {"sum_squares.wgsl", kSumSquares},
    {"token_spans.wgsl", kTokenSpans},
    {"topk.wgsl", kTopk},
    {"topk_select.wgsl", kTopkSelect},
    {"vision_heads.wgsl", kVisionHeads},
    {"vision_pool.wgsl", kVisionPool},
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
