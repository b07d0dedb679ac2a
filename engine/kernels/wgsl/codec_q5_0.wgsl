// Q5_0: value = d * (q - 16).
fn q5_0_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = row * UNITS + u;
  let q = nibbles(weights[p.quants + at], h) | fifth_bits(plane_word(p.high + at), h);
  return shifted(bytes_matrix(q), -16.0, plane_half(p.scales + row * SCALE_WORDS, u));
}

fn q5_0_dot(p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let at = row * UNITS + u;
  let q = weights[p.quants + at];
  let high = plane_word(p.high + at);
  let sums = bytes_dot(nibbles(q, 0u) | fifth_bits(high, 0u), nibbles(q, 1u) | fifth_bits(high, 1u), a);
  return plane_half(p.scales + row * SCALE_WORDS, u) *
         (sums.x + sums.y - 16.0 * (a.low_sum + a.high_sum));
}
