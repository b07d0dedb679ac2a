// Q8_0: value = d * q, q signed.
fn q8_0_bytes(w: u32) -> vec4<f32> {
  return vec4<f32>((vec4<i32>(bitcast<i32>(w)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}

fn q8_0_matrix(q: vec4<u32>) -> mat4x4<f32> {
  return mat4x4<f32>(q8_0_bytes(q.x), q8_0_bytes(q.y), q8_0_bytes(q.z), q8_0_bytes(q.w));
}

fn q8_0_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let q = weights[p.quants + 2u * (row * UNITS + u) + h];
  return q8_0_matrix(q) * plane_half(p.scales + row * SCALE_WORDS, u);
}

fn q8_0_dot(p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let at = p.quants + 2u * (row * UNITS + u);
  return plane_half(p.scales + row * SCALE_WORDS, u) *
         matrix_dot(q8_0_matrix(weights[at]), q8_0_matrix(weights[at + 1u]), a);
}
