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

}  // namespace lapidary::model
