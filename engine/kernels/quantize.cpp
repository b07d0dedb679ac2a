#include "engine/kernels/quantize.h"

#include "engine/base/bytes.h"
#include "engine/base/text.h"

namespace lapidary::kernels {

namespace {
constexpr uint32_t kThreads = 64;
}

KernelSource quantize_source(const QuantizeSpec& spec) {
  Composer composer;
  composer.bind('r', "x", "array<vec4<f32>>")
      .bind('w', "quantized", "array<vec4<u32>>")
      .bind('u', "step", "Step")
      .constant("THREADS", kThreads)
      .constant("UNITS", spec.cols / 32)
      .constant("VECTORS", quantized_vectors(spec.dot))
      .flag("TWO_BYTES", spec.dot == Dot::kInt16)
      .flag("EIGHT", 8)
      .include("quantize.wgsl");
  return std::move(composer).finish(cat("quantize ", dot_name(spec.dot), " x ", spec.cols));
}

Groups quantize_groups(const QuantizeSpec& spec, uint32_t tokens) {
  return {div_ceil(tokens, kThreads), spec.cols / 32, 1};
}

}  // namespace lapidary::kernels
