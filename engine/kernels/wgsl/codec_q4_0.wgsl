// Q4_0: value = d * (q - 8).
fn q4_0_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let q = weights[p.quants + row * UNITS + u];
  return shifted(bytes_matrix(nibbles(q, h)), -8.0, plane_half(p.scales + row * SCALE_WORDS, u));
}

fn q4_0_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  return Fetched(weights[p.quants + row * UNITS + u], vec4<u32>(),
                 vec2<u32>(plane_word(p.scales + row * SCALE_WORDS + (u >> 1u)), 0u));
}

fn q4_0_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let sums = bytes_dot(nibbles(f.a, 0u), nibbles(f.a, 1u), a);
  return word_half(f.c.x, u) * (sums.x + sums.y - 8.0 * (a.low_sum + a.high_sum));
}

//#if INTEGER
fn q4_0_quants(f: Fetched, u: u32, h: u32) -> Quants {
  return Quants(lowered(nibbles(f.a, h), 8u), word_half(f.c.x, u), 0.0);
}
//#endif
