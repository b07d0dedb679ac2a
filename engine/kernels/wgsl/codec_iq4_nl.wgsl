// IQ4_NL: value = d * table[q].
//#include iq4_table.wgsl
fn iq4_nl_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  return signed_bytes_matrix(iq4_bytes(weights[p.quants + row * UNITS + u], h)) *
         plane_half(p.scales + row * SCALE_WORDS, u);
}

fn iq4_nl_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  return Fetched(weights[p.quants + row * UNITS + u], vec4<u32>(),
                 vec2<u32>(plane_word(p.scales + row * SCALE_WORDS + (u >> 1u)), 0u));
}

fn iq4_nl_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let sums = signed_bytes_dot(iq4_bytes(f.a, 0u), iq4_bytes(f.a, 1u), a);
  return word_half(f.c.x, u) * (sums.x + sums.y);
}

//#if INTEGER
fn iq4_nl_quants(f: Fetched, u: u32, h: u32) -> Quants {
  return Quants(iq4_bytes(f.a, h), word_half(f.c.x, u), 0.0);
}
//#endif
