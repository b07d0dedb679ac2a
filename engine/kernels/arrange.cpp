#include "engine/kernels/arrange.h"

#include "engine/base/bytes.h"

namespace lapidary::kernels {

namespace {
constexpr uint32_t kThreads = 64;
}  // namespace

KernelSource arrange_source(bool bf16) {
  Composer composer;
  composer.constant("THREADS", kThreads)
      .flag("BF16", bf16)
      .bind('r', "source", "array<f32>")
      .bind('w', "result", bf16 ? "array<u32>" : "array<f32>")
      .bind('r', "weights", "array<f32>")
      .bind('u', "arrange", "Arrange")
      .include("arrange.wgsl");
  return std::move(composer).finish(bf16 ? "arrange bf16" : "arrange");
}

Groups arrange_groups(const ArrangeSpec& spec, bool bf16) {
  const uint32_t stored = bf16 ? div_ceil(spec.cols, 8) * 4 : spec.cols;
  return {div_ceil(stored, kThreads), spec.rows, 1};
}

}  // namespace lapidary::kernels
