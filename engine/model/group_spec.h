// What a decoder's and a drafter's matvecs have in common.
#pragma once

#include "engine/kernels/matvec.h"
#include "engine/model/config.h"
#include "engine/model/weights.h"

namespace lapidary::model {

inline kernels::MatvecSpec group_spec(const MatrixGroup& group, const Config& config) {
  kernels::MatvecSpec spec;
  spec.segments = group.segments;
  spec.cols = group.cols;
  spec.eps = config.rms_eps;
  spec.cap = config.softcap;
  return spec;
}

// The residual update and the norm of `site` come first.
inline void set_site(kernels::MatvecSpec& spec, const Site& site) {
  spec.prologue = kernels::Prologue::kResidualNorm;
  spec.has_post = site.has_post;
  spec.has_pre = site.has_pre;
}

// The dispatches that a product of a group in parts is: use(spec, ranges) of each, ranges[0] being
// the part's buffer.
template <typename Spec, typename Use>
void for_each_part(const MatrixGroup& group, const Spec& spec,
                   const std::vector<gpu::Range>& ranges, const Use& use) {
  group.for_each_part(
      spec.epilogue == kernels::Epilogue::kGeglu,
      [&](std::vector<kernels::Segment> segments, uint32_t row, const SharedBuffer& buffer) {
        Spec part = spec;
        part.segments = std::move(segments);
        part.row_offset += row;
        part.mul_offset += row;
        std::vector<gpu::Range> bound = ranges;
        bound[0] = buffer;
        use(part, std::move(bound));
      });
}

}  // namespace lapidary::model
