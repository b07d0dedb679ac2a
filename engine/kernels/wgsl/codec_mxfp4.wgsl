// MXFP4: value = 2^(e - 128) * v, v = 0, 1, 2, 3, 4, 6, 8, 12 by the lower three bits of a quant,
// negative with the fourth: twice what the format says.
fn mxfp4_bytes(q: vec4<u32>, h: u32) -> vec4<u32> {
  let codes = nibbles(q, h);
  let low = codes & vec4<u32>(0x03030303u);
  let both = (codes >> vec4<u32>(1u)) & codes & vec4<u32>(0x01010101u);
  let v = low + ((low + 2u * both + vec4<u32>(0x04040404u)) & byte_mask(codes, 2u));
  // From 128 on, so that no byte borrows from the next.
  return (vec4<u32>(0x80808080u) + v - 2u * (v & byte_mask(codes, 3u))) ^ vec4<u32>(0x80808080u);
}

// By its bits; the two least are subnormal.
fn mxfp4_scale(word: u32, u: u32) -> f32 {
  let e = (word >> (8u * (u & 3u))) & 0xFFu;
  return bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << (e & 1u), e < 2u));
}

fn mxfp4_scale_word(p: Planes, row: u32, u: u32) -> u32 {
  return plane_word(p.scales + row * ((UNITS + 3u) / 4u) + (u >> 2u));
}

fn mxfp4_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  return signed_bytes_matrix(mxfp4_bytes(weights[p.quants + row * UNITS + u], h)) *
         mxfp4_scale(mxfp4_scale_word(p, row, u), u);
}

fn mxfp4_fetch(p: Planes, row: u32, u: u32) -> Fetched {
  return Fetched(weights[p.quants + row * UNITS + u], vec4<u32>(),
                 vec2<u32>(mxfp4_scale_word(p, row, u), 0u));
}

fn mxfp4_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  let sums = signed_bytes_dot(mxfp4_bytes(f.a, 0u), mxfp4_bytes(f.a, 1u), a);
  return mxfp4_scale(f.c.x, u) * (sums.x + sums.y);
}

//#if INTEGER
fn mxfp4_quants(f: Fetched, u: u32, h: u32) -> Quants {
  return Quants(mxfp4_bytes(f.a, h), mxfp4_scale(f.c.x, u), 0.0);
}
//#endif
