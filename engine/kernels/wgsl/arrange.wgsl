// Copies a matrix of f32 into another place and order, times weights of its columns where they are
// asked for. A workgroup has THREADS values of one row, or as many words of bf16 (order:
// fused_change.h), rounded to the nearest, ties to even.
struct Arrange {
  rows: u32,
  cols: u32,
  in_offset: u32,
  in_row: u32,
  in_col: u32,
  out_offset: u32,
  out_row: u32,
  first: u32,
  second: u32,
}
const NONE: u32 = 0xffffffffu;

fn value_at(row: u32, col: u32) -> f32 {
  var value = source[arrange.in_offset + row * arrange.in_row + col * arrange.in_col];
  if (arrange.first != NONE) {
    value *= weights[arrange.first + col];
  }
  if (arrange.second != NONE) {
    value *= weights[arrange.second + col];
  }
  return value;
}
//#if BF16
// In the upper half of a word.
fn bf16_at(row: u32, col: u32) -> u32 {
  let bits = bitcast<u32>(value_at(row, col));
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u;
}
//#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
  let row = group.y;
  let i = group.x * THREADS + tid;
//#if BF16
  let col = 8u * (i / 4u) + i % 4u;
//#else
  let col = i;
//#endif
  if (col >= arrange.cols) {
    return;
  }
//#if BF16
  var word = bf16_at(row, col) >> 16u;
  if (col + 4u < arrange.cols) {
    word |= bf16_at(row, col + 4u);
  }
  result[(arrange.out_offset + row * arrange.out_row) / 2u + i] = word;
//#else
  result[arrange.out_offset + row * arrange.out_row + col] = value_at(row, col);
//#endif
}
