// What a workgroup's outputs give of the next product's A h. The includer gives HANDED_RANK, HANDED
// (where A, transposed, begins in `adapter`, in vectors), HANDERS (threads that share the outputs,
// for each four of the ranks; HANDED_RANK / 4 * HANDERS <= THREADS), HANDED_AHEAD (outputs of a
// thread whose rows of A are fetched early), handed_value(n), room for partial sums: hand_stage(i,
// sum) of four ranks, hand_staged(i) of one; and store_handed(r, sum).
const HANDED_FOURS: u32 = HANDED_RANK / 4u;

//#repeat k HANDED_AHEAD
var<private> handed_${k}: vec4<f32>;
//#end

fn handed_row(tid: u32, first: u32, n: u32) -> vec4<f32> {
  return adapter[HANDED + (first + n) * HANDED_FOURS + tid % HANDED_FOURS];
}

// first: the place of output 0 in the next product's input; `count` outputs are there.
fn fetch_handed(tid: u32, first: u32, count: u32) {
//#repeat k HANDED_AHEAD
  handed_${k} = handed_row(tid, first, min(tid / HANDED_FOURS + ${k}u * HANDERS, count - 1u));
//#end
}

// After fetch_handed() and a barrier, in uniform control flow.
fn hand_low(tid: u32, first: u32, count: u32) {
  if (tid < HANDED_FOURS * HANDERS) {
    let begin = tid / HANDED_FOURS;
    var sum = vec4<f32>(0.0);
//#repeat k HANDED_AHEAD
    if (begin + ${k}u * HANDERS < count) {
      sum += handed_value(begin + ${k}u * HANDERS) * handed_${k};
    }
//#end
    for (var n = begin + HANDED_AHEAD * HANDERS; n < count; n += HANDERS) {
      sum += handed_value(n) * handed_row(tid, first, n);
    }
    hand_stage(tid, sum);
  }
  workgroupBarrier();
  for (var r = tid; r < HANDED_RANK; r += THREADS) {
    var sum = 0.0;
    for (var h = 0u; h < bound(HANDERS); h++) {
      sum += hand_staged(h * HANDED_RANK + r);
    }
    store_handed(r, sum);
  }
}
