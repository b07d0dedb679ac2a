// The scale and minimum of sub-block g of a Q4_K or Q5_K super-block: x = d * scale, y = dmin * min.
// The 6-bit numbers lie in 12 bytes: 0-3 and 4-7 hold those of the first four sub-blocks and, in
// their top bits, the upper bits of the others, whose lower nibbles are in bytes 8-11.
fn k_scales(super_block: vec4<u32>, g: u32) -> vec2<f32> {
  let shift = 8u * (g & 3u);
  let a = super_block.y >> shift;
  let b = super_block.z >> shift;
  let c = super_block.w >> shift;
  let first = vec2<u32>(a, b) & vec2<u32>(63u);
  let second = (vec2<u32>(c, c >> 4u) & vec2<u32>(15u)) |
               (((vec2<u32>(a, b) >> vec2<u32>(6u)) & vec2<u32>(3u)) << vec2<u32>(4u));
  return unpack2x16float(super_block.x) * vec2<f32>(select(second, first, g < 4u));
}
