// Q5_K: as Q4_K, with a fifth bit.
//#include k_scales.wgsl
fn q5_k_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = row * UNITS + u;
  let q = nibbles(weights[p.quants + at], h) | fifth_bits(plane_word(p.high + at), h);
  let s = k_scales(weights[p.supers + row * SUPERS + (u >> 3u)], u & 7u);
  return scaled(bytes_matrix(q), s.x, -s.y);
}

fn q5_k_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  let at = row * UNITS + u;
  return Fetched(weights[p.quants + at], weights[p.supers + row * SUPERS + (u >> 3u)],
                 vec2<u32>(plane_word(p.high + at), 0u));
}

fn q5_k_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let s = k_scales(f.b, u & 7u);
  let sums = bytes_dot(nibbles(f.a, 0u) | fifth_bits(f.c.x, 0u),
                       nibbles(f.a, 1u) | fifth_bits(f.c.x, 1u), a);
  return s.x * (sums.x + sums.y) - s.y * (a.low_sum + a.high_sum);
}

//#if INTEGER
fn q5_k_quants(f: Fetched, u: u32, h: u32) -> Quants {
  let s = k_scales(f.b, u & 7u);
  return Quants(nibbles(f.a, h) | fifth_bits(f.c.x, h), s.x, -s.y);
}
//#endif
