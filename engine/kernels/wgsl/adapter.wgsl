// The buffer `adapter` of a low-rank change (fused_change.h), eight values at a time.
//#if ADAPTER_BF16
// Four words: the first four values are their lower halves.
alias Eight = vec4<u32>;
fn adapter_eight(i: u32) -> Eight { return adapter[i]; }
fn eight_values(e: Eight) -> mat2x4<f32> {
  return mat2x4<f32>(bitcast<vec4<f32>>(e << vec4<u32>(16u)),
                     bitcast<vec4<f32>>(e & vec4<u32>(0xffff0000u)));
}
fn adapter_value(i: u32) -> f32 {
  let word = adapter[i >> 3u][i & 3u];
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (i & 4u) != 0u));
}
//#else
alias Eight = mat2x4<f32>;
fn adapter_eight(i: u32) -> Eight { return mat2x4<f32>(adapter[2u * i], adapter[2u * i + 1u]); }
fn eight_values(e: Eight) -> mat2x4<f32> { return e; }
fn adapter_value(i: u32) -> f32 { return adapter[i >> 2u][i & 3u]; }
//#endif
