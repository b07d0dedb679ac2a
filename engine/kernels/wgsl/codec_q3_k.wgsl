// Q3_K: value = d * (scale - 32) * (q - 4); a scale for each half of a unit. The 6-bit scales of the
// halves of eight units lie in 12 bytes: 0-7 hold the lower nibbles of the first four units' scales and
// those of the others above them, 8-11 the upper bits, two by two.
fn q3_k_scale(super_block: vec4<u32>, g: u32) -> vec2<f32> {
  let shift = 16u * (g & 1u);
  let low = select(super_block.y, super_block.z, (g & 2u) != 0u) >> (shift + 4u * (g >> 2u));
  let high = super_block.w >> (shift + 2u * (g >> 1u));
  let scales = (low & 0x0F0Fu) | ((high & 0x0303u) << 4u);
  return unpack2x16float(super_block.x).x *
         (vec2<f32>(vec2<u32>(scales, scales >> 8u) & vec2<u32>(0xFFu)) - 32.0);
}

fn q3_k_bytes(low: u32, third: u32, h: u32) -> vec4<u32> {
  return two_bits(low) | (fifth_bits(third, h) >> vec4<u32>(2u));
}

fn q3_k_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = row * UNITS + u;
  let q = q3_k_bytes(plane_word(4u * p.quants + 2u * at + h), plane_word(p.high + at), h);
  let s = q3_k_scale(weights[p.supers + row * SUPERS + (u >> 3u)], u & 7u);
  return shifted(bytes_matrix(q), -4.0, select(s.x, s.y, h == 1u));
}

fn q3_k_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  let at = row * UNITS + u;
  let low = 4u * p.quants + 2u * at;
  return Fetched(vec4<u32>(plane_word(low), plane_word(low + 1u), plane_word(p.high + at), 0u),
                 weights[p.supers + row * SUPERS + (u >> 3u)], vec2<u32>());
}

fn q3_k_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let sums = bytes_dot(q3_k_bytes(f.a.x, f.a.z, 0u), q3_k_bytes(f.a.y, f.a.z, 1u), a) -
             4.0 * vec2<f32>(a.low_sum, a.high_sum);
  return dot(q3_k_scale(f.b, u & 7u), sums);
}

//#if INTEGER
fn q3_k_quants(f: Fetched, u: u32, h: u32) -> Quants {
  let s = q3_k_scale(f.b, u & 7u);
  return Quants(lowered(q3_k_bytes(select(f.a.x, f.a.y, h == 1u), f.a.z, h), 4u),
                select(s.x, s.y, h == 1u), 0.0);
}
//#endif
