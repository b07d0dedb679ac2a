// The products A h of a low-rank change beside those of a matvec. Row v of a workgroup that has them
// is row v % LOW_RANK of A times one run of LANES units. `adapter`: A, rows of whole units of f32.
//#if INTEGER
//#if TWO_BYTES
fn low_half(at: u32, high: vec4<u32>, low: vec4<u32>) -> f32 {
  return dot(adapter[at], 128.0 * signed_bytes(high.x) + signed_bytes(low.x)) +
         dot(adapter[at + 1u], 128.0 * signed_bytes(high.y) + signed_bytes(low.y)) +
         dot(adapter[at + 2u], 128.0 * signed_bytes(high.z) + signed_bytes(low.z)) +
         dot(adapter[at + 3u], 128.0 * signed_bytes(high.w) + signed_bytes(low.w));
}
//#else
fn low_half(at: u32, high: vec4<u32>) -> f32 {
  return dot(adapter[at], signed_bytes(high.x)) + dot(adapter[at + 1u], signed_bytes(high.y)) +
         dot(adapter[at + 2u], signed_bytes(high.z)) + dot(adapter[at + 3u], signed_bytes(high.w));
}
//#endif
//#endif

fn low_dot(v: u32, u: u32, a: Activations) -> f32 {
  if (u / LANES != v / LOW_RANK) {
    return 0.0;
  }
  let at = 8u * ((v % LOW_RANK) * UNITS + u);
//#if INTEGER
//#if TWO_BYTES
  return a.scale.x * low_half(at, a.high_0, a.low_0) +
         a.scale.y * low_half(at + 4u, a.high_1, a.low_1);
//#else
  return a.scale.x * low_half(at, a.high_0) + a.scale.y * low_half(at + 4u, a.high_1);
//#endif
//#else
  return matrix_dot(mat4x4<f32>(adapter[at], adapter[at + 1u], adapter[at + 2u], adapter[at + 3u]),
                    mat4x4<f32>(adapter[at + 4u], adapter[at + 5u], adapter[at + 6u],
                                adapter[at + 7u]), a);
//#endif
}
