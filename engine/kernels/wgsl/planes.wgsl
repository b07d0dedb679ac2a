// Reading the planes of a repacked matrix (layout.h). Needs `weights: array<vec4<u32>>`.
// quants, supers: in vectors; high, scales, deltas: in words.
struct Planes { quants: u32, high: u32, scales: u32, deltas: u32, supers: u32 }

//#if INTEGER
// The 32 activations of a unit in signed bytes: the value of element i of half h is
// scale[h] * (128 * high + low), or scale[h] * high where one byte must do. The sums of the values,
// by half, are for formats with an offset.
struct Activations {
  high_0: vec4<u32>, high_1: vec4<u32>,
//#if TWO_BYTES
  low_0: vec4<u32>, low_1: vec4<u32>,
//#endif
  scale: vec2<f32>,
  low_sum: f32, high_sum: f32,
}
//#else
// The 32 activations of a unit, and their sums by half: formats with an offset need those.
struct Activations {
  v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>,
  v4: vec4<f32>, v5: vec4<f32>, v6: vec4<f32>, v7: vec4<f32>,
  low_sum: f32, high_sum: f32,
}
//#endif

// What a unit of a block format occupies in memory, read ahead of its use; each codec has its own
// order. Float formats read when they multiply.
struct Fetched { a: vec4<u32>, b: vec4<u32>, c: vec2<u32> }

fn plane_word(i: u32) -> u32 { return weights[i >> 2u][i & 3u]; }

// Entry i of an f16 plane, of the word that holds it and its neighbour.
fn word_half(word: u32, i: u32) -> f32 { return unpack2x16float(word >> ((i & 1u) * 16u)).x; }

// Entry i of an f16 plane whose row starts at word `row`.
fn plane_half(row: u32, i: u32) -> f32 { return word_half(plane_word(row + (i >> 1u)), i); }

// The four bytes of a word as floats.
fn bytes(w: u32) -> vec4<f32> {
  return vec4<f32>((vec4<u32>(w) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xFFu));
}

// The same, signed.
fn signed_bytes(w: u32) -> vec4<f32> {
  return vec4<f32>((vec4<i32>(bitcast<i32>(w)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}

//#if INTEGER
// Half a unit as signed bytes: value = scale * byte + offset.
struct Quants { bytes: vec4<u32>, scale: f32, offset: f32 }

// Bytes of 0 to 127, each less `by` (at most 128), signed.
fn lowered(q: vec4<u32>, by: u32) -> vec4<u32> {
  // The top bits, set meanwhile, keep borrows from the next byte.
  return ((q | vec4<u32>(0x80808080u)) - vec4<u32>(by * 0x01010101u)) ^ vec4<u32>(0x80808080u);
}

fn packed_dot(w: vec4<u32>, a: vec4<u32>) -> i32 {
  return dot4I8Packed(w.x, a.x) + dot4I8Packed(w.y, a.y) + dot4I8Packed(w.z, a.z) +
         dot4I8Packed(w.w, a.w);
}

// Sums of quants times activations, elements 0-15 and 16-31 apart; each argument holds 16 signed
// bytes. Products of 16 bits by 8 stay far below 2^31.
fn bytes_dot(low: vec4<u32>, high: vec4<u32>, a: Activations) -> vec2<f32> {
//#if TWO_BYTES
  let sums = vec2<i32>(packed_dot(low, a.high_0) * 128 + packed_dot(low, a.low_0),
                       packed_dot(high, a.high_1) * 128 + packed_dot(high, a.low_1));
//#else
  let sums = vec2<i32>(packed_dot(low, a.high_0), packed_dot(high, a.high_1));
//#endif
  return a.scale * vec2<f32>(sums);
}

// The same: there bytes are signed.
fn signed_bytes_dot(low: vec4<u32>, high: vec4<u32>, a: Activations) -> vec2<f32> {
  return bytes_dot(low, high, a);
}
//#else
// Sums of quants times activations, elements 0-15 and 16-31 apart; each argument holds 16 bytes.
fn bytes_dot(low: vec4<u32>, high: vec4<u32>, a: Activations) -> vec2<f32> {
  return vec2<f32>(
      dot(bytes(low.x), a.v0) + dot(bytes(low.y), a.v1) + dot(bytes(low.z), a.v2) +
          dot(bytes(low.w), a.v3),
      dot(bytes(high.x), a.v4) + dot(bytes(high.y), a.v5) + dot(bytes(high.z), a.v6) +
          dot(bytes(high.w), a.v7));
}

fn signed_bytes_dot(low: vec4<u32>, high: vec4<u32>, a: Activations) -> vec2<f32> {
  return vec2<f32>(
      dot(signed_bytes(low.x), a.v0) + dot(signed_bytes(low.y), a.v1) +
          dot(signed_bytes(low.z), a.v2) + dot(signed_bytes(low.w), a.v3),
      dot(signed_bytes(high.x), a.v4) + dot(signed_bytes(high.y), a.v5) +
          dot(signed_bytes(high.z), a.v6) + dot(signed_bytes(high.w), a.v7));
}

fn matrix_dot(low: mat4x4<f32>, high: mat4x4<f32>, a: Activations) -> f32 {
  return dot(low[0], a.v0) + dot(low[1], a.v1) + dot(low[2], a.v2) + dot(low[3], a.v3) +
         dot(high[0], a.v4) + dot(high[1], a.v5) + dot(high[2], a.v6) + dot(high[3], a.v7);
}
//#endif

fn bytes_matrix(q: vec4<u32>) -> mat4x4<f32> {
  return mat4x4<f32>(bytes(q.x), bytes(q.y), bytes(q.z), bytes(q.w));
}

fn signed_bytes_matrix(q: vec4<u32>) -> mat4x4<f32> {
  return mat4x4<f32>(signed_bytes(q.x), signed_bytes(q.y), signed_bytes(q.z), signed_bytes(q.w));
}

// Every element times `scale` plus `offset`.
fn scaled(m: mat4x4<f32>, scale: f32, offset: f32) -> mat4x4<f32> {
  return mat4x4<f32>(m[0] * scale + offset, m[1] * scale + offset, m[2] * scale + offset,
                     m[3] * scale + offset);
}

// Every element plus `offset`, then times `scale`: the order in which ggml rounds.
fn shifted(m: mat4x4<f32>, offset: f32, scale: f32) -> mat4x4<f32> {
  return mat4x4<f32>((m[0] + offset) * scale, (m[1] + offset) * scale, (m[2] + offset) * scale,
                     (m[3] + offset) * scale);
}

const NIBBLES = vec4<u32>(0x0F0F0F0Fu);

// The nibbles of half h (0 or 1) of a unit, a byte each.
fn nibbles(q: vec4<u32>, h: u32) -> vec4<u32> { return (q >> vec4<u32>(4u * h)) & NIBBLES; }

// The fifth bits of half h, in place over nibbles.
fn fifth_bits(high: u32, h: u32) -> vec4<u32> {
  return ((vec4<u32>(high) >> (vec4<u32>(0u, 1u, 2u, 3u) + 4u * h)) & vec4<u32>(0x01010101u)) <<
         vec4<u32>(4u);
}

// Two bits of 16 elements, a byte each.
fn two_bits(word: u32) -> vec4<u32> {
  return (vec4<u32>(word) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(0x03030303u);
}

// 0xFF in the bytes of q that have bit `bit`.
fn byte_mask(q: vec4<u32>, bit: u32) -> vec4<u32> {
  return ((q >> vec4<u32>(bit)) & vec4<u32>(0x01010101u)) * vec4<u32>(0xFFu);
}
