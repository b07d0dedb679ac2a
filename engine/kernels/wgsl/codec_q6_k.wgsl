// Q6_K: value = d * scale * (q - 32); a scale for each half of a unit.
fn q6_k_scale(scales_word: u32, delta_word: u32, u: u32) -> vec2<f32> {
  let pair = scales_word >> (16u * (u & 1u));
  let scales = (vec2<i32>(bitcast<i32>(pair)) << vec2<u32>(24u, 16u)) >> vec2<u32>(24u);
  return word_half(delta_word, u >> 3u) * vec2<f32>(scales);
}

// The 6-bit quants of half h; `high` has their upper two bits.
fn q6_k_bytes(q: vec4<u32>, high: u32, h: u32) -> vec4<u32> {
  return nibbles(q, h) | (two_bits(high) << vec4<u32>(4u));
}

fn q6_k_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = row * UNITS + u;
  let q = q6_k_bytes(weights[p.quants + at], plane_word(p.high + 2u * at + h), h);
  let s = q6_k_scale(plane_word(p.scales + row * SCALE_WORDS + (u >> 1u)),
                     plane_word(p.deltas + row * DELTA_WORDS + (u >> 4u)), u);
  return shifted(bytes_matrix(q), -32.0, select(s.x, s.y, h == 1u));
}

fn q6_k_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  let at = row * UNITS + u;
  return Fetched(weights[p.quants + at],
                 vec4<u32>(plane_word(p.scales + row * SCALE_WORDS + (u >> 1u)),
                           plane_word(p.deltas + row * DELTA_WORDS + (u >> 4u)), 0u, 0u),
                 vec2<u32>(plane_word(p.high + 2u * at), plane_word(p.high + 2u * at + 1u)));
}

fn q6_k_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let sums = bytes_dot(q6_k_bytes(f.a, f.c.x, 0u), q6_k_bytes(f.a, f.c.y, 1u), a) -
             32.0 * vec2<f32>(a.low_sum, a.high_sum);
  return dot(q6_k_scale(f.b.x, f.b.y, u), sums);
}

//#if INTEGER
fn q6_k_quants(f: Fetched, u: u32, h: u32) -> Quants {
  let scales = q6_k_scale(f.b.x, f.b.y, u);
  return Quants(lowered(q6_k_bytes(f.a, select(f.c.x, f.c.y, h == 1u), h), 32u),
                select(scales.x, scales.y, h == 1u), 0.0);
}
//#endif
