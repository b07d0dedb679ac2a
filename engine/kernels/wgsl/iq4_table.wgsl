// IQ4_NL and IQ4_XS: the 16 values of a quant, signed bytes: -127, -104, -83, -65, -49, -35, -22, -10,
// 1, 13, 25, 38, 53, 69, 89, 113.
//
// Four bytes at once: each bit of the quants chooses between two halves of what is left of the table.
// A look-up for each would take as many instructions, and memory that a thread's own tables spill to.
fn chosen(zero: vec4<u32>, one: vec4<u32>, mask: vec4<u32>) -> vec4<u32> {
  return zero ^ ((zero ^ one) & mask);
}

fn four_times(entry: u32) -> vec4<u32> { return vec4<u32>((entry & 0xFFu) * 0x01010101u); }

// What the lower two bits choose from four entries.
fn chosen_of_four(entries: u32, bit_0: vec4<u32>, bit_1: vec4<u32>) -> vec4<u32> {
  return chosen(chosen(four_times(entries), four_times(entries >> 8u), bit_0),
                chosen(four_times(entries >> 16u), four_times(entries >> 24u), bit_0), bit_1);
}

fn iq4_bytes(q: vec4<u32>, h: u32) -> vec4<u32> {
  let places = nibbles(q, h);
  let bit_0 = byte_mask(places, 0u);
  let bit_1 = byte_mask(places, 1u);
  let bit_2 = byte_mask(places, 2u);
  return chosen(chosen(chosen_of_four(0xBFAD9881u, bit_0, bit_1),
                       chosen_of_four(0xF6EADDCFu, bit_0, bit_1), bit_2),
                chosen(chosen_of_four(0x26190D01u, bit_0, bit_1),
                       chosen_of_four(0x71594535u, bit_0, bit_1), bit_2),
                byte_mask(places, 3u));
}
