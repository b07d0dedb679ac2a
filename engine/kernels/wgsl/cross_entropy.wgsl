// Shared by the kernels of the loss. logits [R, CHUNK] are those of the step.spans words from
// step.position on, before the softcap; R = step.tokens. A target that is no word of the vocabulary counts for nothing.
//#include step.wgsl
//#include bound.wgsl
//#include epilogue.wgsl
struct LossParams { factor: f32 }

//#if LOGITS
fn logit(row: u32, word: u32) -> f32 {
//#if SOFTCAP
  return softcap(logits[row * CHUNK + word]);
//#else
  return logits[row * CHUNK + word];
//#endif
}
//#endif
