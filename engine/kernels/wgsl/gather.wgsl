// out[t] = SCALE * row tokens[t] of a table. One thread half a unit (16 elements) of a token.
//#include step.wgsl
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let unit = id.x >> 1u;
  let half = id.x & 1u;
  let token = id.y;
  // Ids below ROW_BEGIN wrap around to large numbers.
  let row = tokens[token] - ROW_BEGIN;
  if (unit >= UNITS || token >= step.tokens || row >= ROWS_0) {
    return;
  }
  let values = decode_half(SEGMENT_0, row, unit, half);
  let at = token * COLS + unit * 32u + half * 16u;
//#if ALIGNED
  for (var k = 0u; k < 4u; k++) {
    out[(at >> 2u) + k] = values[k] * SCALE;
  }
//#else
  for (var i = 0u; i < 16u; i++) {
    if (unit * 32u + half * 16u + i < COLS) {
      out[at + i] = values[i >> 2u][i & 3u] * SCALE;
    }
  }
//#endif
}
