// IQ4_XS: value = d * (scale - 32) * table[q]. The 6-bit scales of eight units: the lower nibbles in a
// word, the upper bits two by two above d.
//#include iq4_table.wgsl
fn iq4_xs_scale(words: vec2<u32>, g: u32) -> f32 {
  let scale = ((words.y >> (4u * g)) & 15u) | (((words.x >> (16u + 2u * g)) & 3u) << 4u);
  return unpack2x16float(words.x).x * (f32(scale) - 32.0);
}

fn iq4_xs_words(p: Planes, row: u32, u: u32) -> vec2<u32> {
  let at = p.deltas + 2u * (row * SUPERS + (u >> 3u));
  return vec2<u32>(plane_word(at), plane_word(at + 1u));
}

fn iq4_xs_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  return signed_bytes_matrix(iq4_bytes(weights[p.quants + row * UNITS + u], h)) *
         iq4_xs_scale(iq4_xs_words(p, row, u), u & 7u);
}

fn iq4_xs_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  return Fetched(weights[p.quants + row * UNITS + u], vec4<u32>(), iq4_xs_words(p, row, u));
}

fn iq4_xs_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let sums = signed_bytes_dot(iq4_bytes(f.a, 0u), iq4_bytes(f.a, 1u), a);
  return iq4_xs_scale(f.c, u & 7u) * (sums.x + sums.y);
}

//#if INTEGER
fn iq4_xs_quants(f: Fetched, u: u32, h: u32) -> Quants {
  return Quants(iq4_bytes(f.a, h), iq4_xs_scale(f.c, u & 7u), 0.0);
}
//#endif
