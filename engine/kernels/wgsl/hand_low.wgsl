// What a workgroup's outputs give of the next product's A h. The includer gives HANDED_RANK,
// HANDED_ROWS (outputs of a workgroup), HANDED (where A, transposed, begins in `adapter`, in
// vectors), HANDERS (threads that share the outputs, for each four of the ranks), handed_value(n),
// and room for partial sums: hand_stage(i, sum), hand_staged(i), at most HANDED_RANK / 4 * HANDERS.
const HANDED_FOURS: u32 = HANDED_RANK / 4u;

// To be called in uniform control flow, after a barrier. first: the place of output 0 in the next
// product's input; `count` outputs are there. The result of four ranks is store_handed()'s.
fn hand_low(tid: u32, first: u32, count: u32) {
  for (var i = tid; i < HANDED_FOURS * HANDERS; i += THREADS) {
    let four = i % HANDED_FOURS;
    var sum = vec4<f32>(0.0);
    for (var n = i / HANDED_FOURS; n < min(count, bound(HANDED_ROWS)); n += HANDERS) {
      sum += handed_value(n) * adapter[HANDED + (first + n) * HANDED_FOURS + four];
    }
    hand_stage(i, sum);
  }
  workgroupBarrier();
  for (var four = tid; four < HANDED_FOURS; four += THREADS) {
    var sum = vec4<f32>(0.0);
    for (var h = 0u; h < bound(HANDERS); h++) {
      sum += hand_staged(h * HANDED_FOURS + four);
    }
    store_handed(four, sum);
  }
}
