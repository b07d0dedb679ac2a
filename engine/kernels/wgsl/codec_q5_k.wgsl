// Q5_K: as Q4_K, with a fifth bit.
//#include k_scales.wgsl
fn q5_k_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = row * UNITS + u;
  let q = nibbles(weights[p.quants + at], h) | fifth_bits(plane_word(p.high + at), h);
  let s = k_scales(weights[p.supers + row * SUPERS + (u >> 3u)], u & 7u);
  return scaled(bytes_matrix(q), s.x, -s.y);
}

fn q5_k_dot(p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let at = row * UNITS + u;
  let q = weights[p.quants + at];
  let high = plane_word(p.high + at);
  let s = k_scales(weights[p.supers + row * SUPERS + (u >> 3u)], u & 7u);
  let sums = bytes_dot(nibbles(q, 0u) | fifth_bits(high, 0u), nibbles(q, 1u) | fifth_bits(high, 1u), a);
  return s.x * (sums.x + sums.y) - s.y * (a.low_sum + a.high_sum);
}
