// Q8_0: value = d * q, q signed.
fn q8_0_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  return signed_bytes_matrix(weights[p.quants + 2u * (row * UNITS + u) + h]) *
         plane_half(p.scales + row * SCALE_WORDS, u);
}

fn q8_0_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  let at = p.quants + 2u * (row * UNITS + u);
  return Fetched(weights[at], weights[at + 1u],
                 vec2<u32>(plane_word(p.scales + row * SCALE_WORDS + (u >> 1u)), 0u));
}

fn q8_0_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let sums = signed_bytes_dot(f.a, f.b, a);
  return word_half(f.c.x, u) * (sums.x + sums.y);
}

//#if INTEGER
fn q8_0_quants(f: Fetched, u: u32, h: u32) -> Quants {
  return Quants(select(f.a, f.b, vec4<bool>(h == 1u)), word_half(f.c.x, u), 0.0);
}
//#endif
