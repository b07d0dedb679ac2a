// Q4_1: value = d * q + m.
fn q4_1_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = row * UNITS + u;
  let s = unpack2x16float(plane_word(p.scales + at));
  return scaled(bytes_matrix(nibbles(weights[p.quants + at], h)), s.x, s.y);
}

fn q4_1_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  let at = row * UNITS + u;
  return Fetched(weights[p.quants + at], vec4<u32>(), vec2<u32>(plane_word(p.scales + at), 0u));
}

fn q4_1_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let s = unpack2x16float(f.c.x);
  let sums = bytes_dot(nibbles(f.a, 0u), nibbles(f.a, 1u), a);
  return s.x * (sums.x + sums.y) + s.y * (a.low_sum + a.high_sum);
}

//#if INTEGER
fn q4_1_quants(f: Fetched, u: u32, h: u32) -> Quants {
  let s = unpack2x16float(f.c.x);
  return Quants(nibbles(f.a, h), s.x, s.y);
}
//#endif
