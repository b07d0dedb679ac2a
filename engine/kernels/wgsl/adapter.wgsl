// The buffer `adapter` of a low-rank change (fused_change.h), eight values at a time.
// Values k and k + 4 of an eight e are a pair, number 4 e + k.
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
alias Pair = u32;
fn adapter_pair(i: u32) -> Pair { return adapter[i >> 2u][i & 3u]; }
fn pair_values(p: Pair) -> vec2<f32> {
  return vec2<f32>(bitcast<f32>(p << 16u), bitcast<f32>(p & 0xffff0000u));
}
//#else
alias Eight = mat2x4<f32>;
fn adapter_eight(i: u32) -> Eight { return mat2x4<f32>(adapter[2u * i], adapter[2u * i + 1u]); }
fn eight_values(e: Eight) -> mat2x4<f32> { return e; }
fn adapter_value(i: u32) -> f32 { return adapter[i >> 2u][i & 3u]; }
alias Pair = vec2<f32>;
fn adapter_pair(i: u32) -> Pair {
  let at = 2u * (i >> 2u);
  return vec2<f32>(adapter[at][i & 3u], adapter[at + 1u][i & 3u]);
}
fn pair_values(p: Pair) -> vec2<f32> { return p; }
//#endif
