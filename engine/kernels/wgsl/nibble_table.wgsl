// Formats whose quants are places in a table of 16 signed bytes.
//
// Four bytes at once: each bit of the places chooses between two halves of what is left of the table.
// A look-up for each would take as many instructions, and memory that tables of a thread's own spill to.
fn chosen(zero: vec4<u32>, one: vec4<u32>, mask: vec4<u32>) -> vec4<u32> {
  return zero ^ ((zero ^ one) & mask);
}

fn four_times(entry: u32) -> vec4<u32> { return vec4<u32>((entry & 0xFFu) * 0x01010101u); }

// What the lower two bits choose from four entries.
fn chosen_of_four(entries: u32, bit_0: vec4<u32>, bit_1: vec4<u32>) -> vec4<u32> {
  return chosen(chosen(four_times(entries), four_times(entries >> 8u), bit_0),
                chosen(four_times(entries >> 16u), four_times(entries >> 24u), bit_0), bit_1);
}

// 0xFF in the bytes of q that have bit `bit`.
fn byte_mask(q: vec4<u32>, bit: u32) -> vec4<u32> {
  return ((q >> vec4<u32>(bit)) & vec4<u32>(0x01010101u)) * vec4<u32>(0xFFu);
}

// The table's entries at q, a nibble in each byte.
fn table_bytes(q: vec4<u32>, table: vec4<u32>) -> vec4<u32> {
  let bit_0 = byte_mask(q, 0u);
  let bit_1 = byte_mask(q, 1u);
  let bit_2 = byte_mask(q, 2u);
  return chosen(chosen(chosen_of_four(table.x, bit_0, bit_1),
                       chosen_of_four(table.y, bit_0, bit_1), bit_2),
                chosen(chosen_of_four(table.z, bit_0, bit_1),
                       chosen_of_four(table.w, bit_0, bit_1), bit_2),
                byte_mask(q, 3u));
}
