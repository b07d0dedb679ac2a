// Adds to every patch what the tables have for its column and its row. One thread a value.
//#include step.wgsl
//#include grid.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let patch_index = id.y;
  if (id.x >= COLS || patch_index >= step.tokens) {
    return;
  }
  let column = patch_index % grid.columns;
  let row = patch_index / grid.columns;
  let at = patch_index * COLS + id.x;
  x[at] = h[at] + table[column * COLS + id.x] + table[(ROWS + row) * COLS + id.x];
}
