// Q8_0: value = d * q, q signed.
fn q8_0_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let q = weights[p.quants + 2u * (row * UNITS + u) + h];
  return mat4x4<f32>(signed_bytes(q.x), signed_bytes(q.y), signed_bytes(q.z), signed_bytes(q.w)) *
         plane_half(p.scales + row * SCALE_WORDS, u);
}

fn q8_0_dot(p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let at = p.quants + 2u * (row * UNITS + u);
  let sums = signed_bytes_dot(weights[at], weights[at + 1u], a);
  return plane_half(p.scales + row * SCALE_WORDS, u) * (sums.x + sums.y);
}
