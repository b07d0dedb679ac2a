// File bytes of whole rows -> the planes of layout.h. One thread a unit of 32 elements. A word that
// two units or super-blocks share is written by the first of them.
const THREADS: u32 = 64u;

struct Params { first_row: u32, n_rows: u32, rows_total: u32, raw_offset: u32 }

// Planes follow each other, each starting at a multiple of 4 words.
fn plane_end(start: u32, row_words: u32) -> u32 {
  return start + ((params.rows_total * row_words + 3u) & ~3u);
}

// At any offset.
fn raw_word(at: u32) -> u32 {
  let word = raw[at >> 2u];
  let shift = 8u * (at & 3u);
  if (shift == 0u) {
    return word;
  }
  return (word >> shift) | (raw[(at >> 2u) + 1u] << (32u - shift));
}

// At even offsets, where all blocks that begin with a half lie.
fn raw_half(at: u32) -> u32 { return (raw[at >> 2u] >> ((at & 2u) * 8u)) & 0xFFFFu; }

fn raw_byte(at: u32) -> u32 { return (raw[at >> 2u] >> ((at & 3u) * 8u)) & 0xFFu; }

fn raw_vector(at: u32) -> vec4<u32> {
  return vec4<u32>(raw_word(at), raw_word(at + 4u), raw_word(at + 8u), raw_word(at + 12u));
}

fn store(at: u32, v: vec4<u32>) {
  packed[at] = v.x;
  packed[at + 1u] = v.y;
  packed[at + 2u] = v.z;
  packed[at + 3u] = v.w;
}

// The f16 at the start of the block of unit u, and of the next unit's if the row has one.
fn scale_pair(row_start: u32, u: u32) -> u32 {
  let at = row_start + u * BLOCK_BYTES;
  var pair = raw_half(at);
  if (u + 1u < UNITS) {
    pair |= raw_half(at + BLOCK_BYTES) << 16u;
  }
  return pair;
}

// Q4_K and Q5_K keep the nibbles of an even sub-block low and those of the next one high in the same
// 32 bytes; Q6_K those of r and r + 2. A unit of ours holds elements j and j + 16 in byte j.
fn split_nibbles(at: u32, shift: u32) -> vec4<u32> {
  let mask = vec4<u32>(0x0F0F0F0Fu);
  let first = (raw_vector(at) >> vec4<u32>(shift)) & mask;
  let second = (raw_vector(at + 16u) >> vec4<u32>(shift)) & mask;
  return first | (second << vec4<u32>(4u));
}

// Bit g of the 32 bytes at `at`: bit 8 j + k is that of byte 4 k + j.
fn gathered_bits(at: u32, g: u32) -> u32 {
  var word = 0u;
  for (var k = 0u; k < 8u; k++) {
    word |= ((raw_word(at + 4u * k) >> g) & 0x01010101u) << k;
  }
  return word;
}

// The two bits at `shift` of the 16 bytes at `at`: bits 8 j + 2 k are those of byte 4 k + j.
fn gathered_pairs(at: u32, shift: u32) -> u32 {
  var word = 0u;
  for (var k = 0u; k < 4u; k++) {
    word |= ((raw_word(at + 4u * k) >> shift) & 0x03030303u) << (2u * k);
  }
  return word;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
  let id = (group.y * groups.x + group.x) * THREADS + tid;
  let local_row = id / UNITS;
  let u = id % UNITS;
  if (local_row >= params.n_rows) {
    return;
  }
  let row = params.first_row + local_row;
  let unit = row * UNITS + u;
  let row_start = params.raw_offset + local_row * ROW_BYTES;
  let high_plane = plane_end(0u, QUANT_WORDS);
  let scale_plane = plane_end(high_plane, HIGH_WORDS);
  let delta_plane = plane_end(scale_plane, SCALE_WORDS);
  let super_plane = plane_end(delta_plane, DELTA_WORDS);

//#if FLOAT
  // 32-bit words of a unit; those past the row's end are zero.
  for (var i = 0u; i < UNIT_WORDS; i++) {
    let at = (u * UNIT_WORDS + i) * 4u;
    var word = 0u;
    if (at + 4u <= ROW_BYTES) {
      word = raw_word(row_start + at);
    } else if (at + 2u <= ROW_BYTES) {
      word = raw_half(row_start + at);
    }
    packed[unit * UNIT_WORDS + i] = word;
  }
//#endif
//#if Q8_0
  let at = row_start + u * BLOCK_BYTES + 2u;
  store(unit * 8u, raw_vector(at));
  store(unit * 8u + 4u, raw_vector(at + 16u));
//#endif
//#if BLOCKS_OF_32
  let unit_block = row_start + u * BLOCK_BYTES;
//#endif
//#if NIBBLES_AT
  store(unit * 4u, raw_vector(unit_block + NIBBLES_AT));
//#endif
//#if FIFTH_AT
  // Bit 4 k + j goes to bit 8 j + k.
  let file = raw_word(unit_block + FIFTH_AT);
  var high = 0u;
  for (var k = 0u; k < 8u; k++) {
    let four = (file >> (4u * k)) & 15u;
    // Spreads bits 0-3 over the four bytes.
    high |= (((four * 0x00204081u) & 0x01010101u) << k);
  }
  packed[high_plane + unit] = high;
//#endif
//#if SCALE_AND_MIN
  packed[scale_plane + unit] = raw_word(unit_block);
//#endif
//#if BYTE_SCALES
  if ((u & 3u) == 0u) {
    var four = 0u;
    for (var i = 0u; i < min(4u, UNITS - u); i++) {
      four |= raw_byte(unit_block + i * BLOCK_BYTES) << (8u * i);
    }
    packed[scale_plane + row * SCALE_WORDS + (u >> 2u)] = four;
  }
//#endif
//#if HALF_SCALES
  if ((u & 1u) == 0u) {
    packed[scale_plane + row * SCALE_WORDS + (u >> 1u)] = scale_pair(row_start, u);
  }
//#endif
//#if SUPER
  let block = row_start + (u >> 3u) * BLOCK_BYTES;
  let g = u & 7u;
//#endif
//#if Q4_K
  store(unit * 4u, split_nibbles(block + 16u + 32u * (g >> 1u), 4u * (g & 1u)));
//#endif
//#if Q5_K
  store(unit * 4u, split_nibbles(block + 48u + 32u * (g >> 1u), 4u * (g & 1u)));
  // Byte l of 32 has the fifth bit of element l of sub-block g in bit g.
  packed[high_plane + unit] = gathered_bits(block + 16u, g);
//#endif
//#if K_SCALES
  if (g == 0u) {
    store(super_plane + (row * SUPERS + (u >> 3u)) * 4u, raw_vector(block));
  }
//#endif
//#if Q2_K
  for (var h = 0u; h < 2u; h++) {
    packed[2u * unit + h] =
        gathered_pairs(block + 16u + 32u * (g >> 2u) + 16u * h, 2u * (g & 3u));
  }
  if ((u & 1u) == 0u) {
    packed[scale_plane + row * SCALE_WORDS + (u >> 1u)] = raw_word(block + 2u * g);
  }
  if (g == 0u) {
    packed[delta_plane + row * DELTA_WORDS + (u >> 3u)] = raw_word(block + 80u);
  }
//#endif
//#if Q3_K
  for (var h = 0u; h < 2u; h++) {
    packed[2u * unit + h] =
        gathered_pairs(block + 32u + 32u * (g >> 2u) + 16u * h, 2u * (g & 3u));
  }
  packed[high_plane + unit] = gathered_bits(block, g);
  if (g == 0u) {
    store(super_plane + (row * SUPERS + (u >> 3u)) * 4u,
          vec4<u32>(raw_half(block + 108u), raw_word(block + 96u), raw_word(block + 100u),
                    raw_word(block + 104u)));
  }
//#endif
//#if IQ4_XS
  store(unit * 4u, raw_vector(block + 8u + 16u * g));
  if (g < 2u) {
    packed[delta_plane + row * DELTA_WORDS + 2u * (u >> 3u) + g] = raw_word(block + 4u * g);
  }
//#endif
//#if Q6_K
  let n = g >> 2u;
  let r = g & 3u;
  store(unit * 4u, split_nibbles(block + 64u * n + 32u * (r & 1u), 4u * (r >> 1u)));
  for (var h = 0u; h < 2u; h++) {
    packed[high_plane + 2u * unit + h] =
        gathered_pairs(block + 128u + 32u * n + 16u * h, 2u * r);
  }
  if ((u & 1u) == 0u) {
    packed[scale_plane + row * SCALE_WORDS + (u >> 1u)] = raw_word(block + 192u + 2u * g);
  }
  if ((u & 15u) == 0u) {
    var pair = raw_half(block + 208u);
    if (u + 8u < UNITS) {
      pair |= raw_half(block + BLOCK_BYTES + 208u) << 16u;
    }
    packed[delta_plane + row * DELTA_WORDS + (u >> 4u)] = pair;
  }
//#endif
}
