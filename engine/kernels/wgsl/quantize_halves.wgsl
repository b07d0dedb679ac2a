// Activations of T tokens as halves, as quantize.h lays them out, a workgroup a token. The scale is
// a power of two that brings the token's largest into [2^13, 2^14): nothing overflows, and what is
// at least 2^-27 of the largest keeps a half's whole precision.
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let token = group.y * groups.x + group.x;
  let tokens = step.tokens * EACH;
  if (token >= tokens) {
    return;
  }
  var most = 0.0;
  for (var c = tid; c < X_ROW; c += THREADS) {
    let at = 2u * (token * X_ROW + c);
    most = max(most, max(absolute_max(x[at]), absolute_max(x[at + 1u])));
  }
  // Powers of two by their bits, from the largest's exponent: at least 2^-100, for 0 as well.
  let exponent = max((bitcast<u32>(workgroup_max(tid, most)) >> 23u) & 0xFFu, 27u);
  let inverse = bitcast<f32>((127u + 127u + 13u - exponent) << 23u);
  for (var c = tid; c < X_ROW; c += THREADS) {
    let at = 2u * (token * X_ROW + c);
    let a = x[at] * inverse;
    let b = x[at + 1u] * inverse;
    quantized[4u * (token * X_ROW + c)] = pack2x16float(a.xy);
    quantized[4u * (token * X_ROW + c) + 1u] = pack2x16float(a.zw);
    quantized[4u * (token * X_ROW + c) + 2u] = pack2x16float(b.xy);
    quantized[4u * (token * X_ROW + c) + 3u] = pack2x16float(b.zw);
  }
  if (tid == 0u) {
    // 1 / inverse.
    quantized[4u * tokens * X_ROW + token] = (exponent - 13u) << 23u;
  }
}
