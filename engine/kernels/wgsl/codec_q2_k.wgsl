// Q2_K: value = d * scale * q - dmin * min; a scale and a minimum for each half of a unit.
fn q2_k_scale(scales_word: u32, delta_word: u32, u: u32, h: u32) -> vec2<f32> {
  let both = scales_word >> (16u * (u & 1u) + 8u * h);
  return unpack2x16float(delta_word) * vec2<f32>(vec2<u32>(both, both >> 4u) & vec2<u32>(15u));
}

// The words of what a unit shares with its neighbours: scales, and d and dmin.
fn q2_k_scale_words(p: Planes, row: u32, u: u32) -> vec2<u32> {
  return vec2<u32>(plane_word(p.scales + row * SCALE_WORDS + (u >> 1u)),
                   plane_word(p.deltas + row * SUPERS + (u >> 3u)));
}

fn q2_k_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let q = two_bits(plane_word(4u * p.quants + 2u * (row * UNITS + u) + h));
  let words = q2_k_scale_words(p, row, u);
  let s = q2_k_scale(words.x, words.y, u, h);
  return scaled(bytes_matrix(q), s.x, -s.y);
}

fn q2_k_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  let at = 4u * p.quants + 2u * (row * UNITS + u);
  return Fetched(vec4<u32>(plane_word(at), plane_word(at + 1u), q2_k_scale_words(p, row, u)),
                 vec4<u32>(), vec2<u32>());
}

fn q2_k_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let low = q2_k_scale(f.a.z, f.a.w, u, 0u);
  let high = q2_k_scale(f.a.z, f.a.w, u, 1u);
  let sums = bytes_dot(two_bits(f.a.x), two_bits(f.a.y), a);
  return (low.x * sums.x + high.x * sums.y) - (low.y * a.low_sum + high.y * a.high_sum);
}

//#if INTEGER
fn q2_k_quants(f: Fetched, u: u32, h: u32) -> Quants {
  let s = q2_k_scale(f.a.z, f.a.w, u, h);
  return Quants(two_bits(select(f.a.x, f.a.y, h == 1u)), s.x, -s.y);
}
//#endif
