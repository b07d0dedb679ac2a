// Rows of a matrix picked out (y[r] = x[rows[r]]), or put back where they came from (SCATTER).
//#include step.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= COLS || id.y >= step.tokens) {
    return;
  }
//#if SCATTER
  y[rows[id.y] * COLS + id.x] = x[id.y * COLS + id.x];
//#else
  y[id.y * COLS + id.x] = x[rows[id.y] * COLS + id.x];
//#endif
}
