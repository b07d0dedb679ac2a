// Q5_0: value = d * (q - 16).
fn q5_0_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = row * UNITS + u;
  let q = nibbles(weights[p.quants + at], h) | fifth_bits(plane_word(p.high + at), h);
  return shifted(bytes_matrix(q), -16.0, plane_half(p.scales + row * SCALE_WORDS, u));
}

fn q5_0_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  let at = row * UNITS + u;
  return Fetched(weights[p.quants + at], vec4<u32>(),
                 vec2<u32>(plane_word(p.scales + row * SCALE_WORDS + (u >> 1u)),
                           plane_word(p.high + at)));
}

fn q5_0_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let sums = bytes_dot(nibbles(f.a, 0u) | fifth_bits(f.c.y, 0u),
                       nibbles(f.a, 1u) | fifth_bits(f.c.y, 1u), a);
  return word_half(f.c.x, u) * (sums.x + sums.y - 16.0 * (a.low_sum + a.high_sum));
}

//#if INTEGER
fn q5_0_quants(f: Fetched, u: u32, h: u32) -> Quants {
  return Quants(lowered(nibbles(f.a, h) | fifth_bits(f.c.y, h), 16u), word_half(f.c.x, u), 0.0);
}
//#endif
