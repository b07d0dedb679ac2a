// Hands values over to a matvec as signed bytes, a block of 16 rows at a time (layout: matvec.h). The
// includer gives Y_UNITS, activation_bytes.wgsl, row_vector(n): values n to n + 3 of the workgroup,
// and store_word(at, word).
//#if TWO_BYTES
const HANDED_VECTORS: u32 = 4u;
//#else
const HANDED_VECTORS: u32 = 2u;
//#endif

// Writes rows n to n + 3 of the workgroup, which are in half `half` of the output.
fn quantize_rows(n: u32, half: u32) {
  let begin = n & ~15u;
  let v0 = row_vector(begin);
  let v1 = row_vector(begin + 4u);
  let v2 = row_vector(begin + 8u);
  let v3 = row_vector(begin + 12u);
  let most = largest(v0, v1, v2, v3);
  let inverse = inverse_scale(most);
  let unit = half >> 1u;
  let h = half & 1u;
  let c = (n & 15u) >> 2u;
  let q = rounded(row_vector(n), inverse);
  store_word(4u * (h * Y_UNITS + unit) + c, high_bytes(q));
//#if TWO_BYTES
  store_word(4u * ((2u + h) * Y_UNITS + unit) + c, low_bytes(q));
//#endif
  if (c == 0u) {
    let scale = most / LIMIT;
    let sums = (q + rounded(v1, inverse)) + (rounded(v2, inverse) + rounded(v3, inverse));
    let at = 4u * (HANDED_VECTORS * Y_UNITS + unit) + 2u * h;
    store_word(at, bitcast<u32>(scale));
    store_word(at + 1u, bitcast<u32>(f32(sums.x + sums.y + sums.z + sums.w) * scale));
  }
}
