#include "engine/kernels/arrange.h"

#include "engine/base/bytes.h"

namespace lapidary::kernels {

namespace {
constexpr uint32_t kThreads = 64;
}  // namespace

KernelSource arrange_source() {
  Composer composer;
  composer.constant("THREADS", kThreads)
      .bind('r', "source", "array<f32>")
      .bind('w', "result", "array<f32>")
      .bind('r', "site", "array<f32>")
      .bind('u', "arrange", "Arrange")
      .include("arrange.wgsl");
  return std::move(composer).finish("arrange");
}

Groups arrange_groups(const ArrangeSpec& spec) {
  return {div_ceil(spec.cols, kThreads), spec.rows, 1};
}

}  // namespace lapidary::kernels
