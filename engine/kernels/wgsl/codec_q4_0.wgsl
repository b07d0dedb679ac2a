// Q4_0: value = d * (q - 8).
fn q4_0_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let q = weights[p.quants + row * UNITS + u];
  return shifted(bytes_matrix(nibbles(q, h)), -8.0, plane_half(p.scales + row * SCALE_WORDS, u));
}

fn q4_0_dot(p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let q = weights[p.quants + row * UNITS + u];
  let sums = bytes_dot(nibbles(q, 0u), nibbles(q, 1u), a);
  return plane_half(p.scales + row * SCALE_WORDS, u) *
         (sums.x + sums.y - 8.0 * (a.low_sum + a.high_sum));
}
