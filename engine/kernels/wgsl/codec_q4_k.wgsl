// Q4_K: value = d * scale * q - dmin * min. (row, u): unit u of a row; h: its lower or upper half.
//#include k_scales.wgsl
fn q4_k_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let q = weights[p.quants + row * UNITS + u];
  let s = k_scales(weights[p.supers + row * SUPERS + (u >> 3u)], u & 7u);
  return scaled(bytes_matrix(nibbles(q, h)), s.x, -s.y);
}

fn q4_k_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  return Fetched(weights[p.quants + row * UNITS + u],
                 weights[p.supers + row * SUPERS + (u >> 3u)], vec2<u32>());
}

fn q4_k_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let s = k_scales(f.b, u & 7u);
  let sums = bytes_dot(nibbles(f.a, 0u), nibbles(f.a, 1u), a);
  return s.x * (sums.x + sums.y) - s.y * (a.low_sum + a.high_sum);
}

//#if INTEGER
fn q4_k_quants(f: Fetched, u: u32, h: u32) -> Quants {
  let s = k_scales(f.b, u & 7u);
  return Quants(nibbles(f.a, h), s.x, -s.y);
}
//#endif
