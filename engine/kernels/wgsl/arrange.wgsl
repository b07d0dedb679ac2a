// Copies a matrix of f32 into another place and order, times weights of its columns where they are
// asked for. A workgroup has THREADS columns of one row.
struct Arrange {
  rows: u32,
  cols: u32,
  in_offset: u32,
  in_row: u32,
  in_col: u32,
  out_offset: u32,
  out_row: u32,
  weights: u32,
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
  let row = group.y;
  let col = group.x * THREADS + tid;
  if (col >= arrange.cols) {
    return;
  }
  var value = source[arrange.in_offset + row * arrange.in_row + col * arrange.in_col];
  if ((arrange.weights & 1u) != 0u) {
    value *= site[col];
  }
  if ((arrange.weights & 2u) != 0u) {
    value *= site[arrange.cols + col];
  }
  result[arrange.out_offset + row * arrange.out_row + col] = value;
}
