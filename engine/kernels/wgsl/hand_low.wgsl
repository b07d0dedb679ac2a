// What a workgroup's outputs give of the next product's A h. The includer gives adapter.wgsl,
// HANDED_RANK, HANDED (where A, transposed, begins in `adapter`, in eights), HANDERS (threads that
// share the outputs, for each eight of the ranks; HANDED_RANK / 8 * HANDERS <= THREADS), HANDED_AHEAD
// (outputs of a thread whose rows of A are fetched early), HANDED_GROUPS (in which their partial sums
// are summed first; HANDED_RANK * HANDED_GROUPS <= THREADS where there are several), handed_value(n),
// room for partial sums: hand_stage(i, sum) of eight ranks, hand_staged(i) of one; and
// store_handed(r, sum).
const HANDED_EIGHTS: u32 = HANDED_RANK / 8u;

//#repeat k HANDED_AHEAD
var<private> handed_${k}: Eight;
//#end

//#if HANDED_TWICE
var<workgroup> handed_sums: array<f32, HANDED_RANK * HANDED_GROUPS>;
//#endif

fn handed_row(tid: u32, first: u32, n: u32) -> Eight {
  return adapter_eight(HANDED + (first + n) * HANDED_EIGHTS + tid % HANDED_EIGHTS);
}

// first: the place of output 0 in the next product's input; `count` outputs are there.
fn fetch_handed(tid: u32, first: u32, count: u32) {
//#repeat k HANDED_AHEAD
  handed_${k} = handed_row(tid, first, min(tid / HANDED_EIGHTS + ${k}u * HANDERS, count - 1u));
//#end
}

// After fetch_handed() and a barrier, in uniform control flow.
fn hand_low(tid: u32, first: u32, count: u32) {
  if (tid < HANDED_EIGHTS * HANDERS) {
    let begin = tid / HANDED_EIGHTS;
    var sum = mat2x4<f32>();
//#repeat k HANDED_AHEAD
    if (begin + ${k}u * HANDERS < count) {
      sum += handed_value(begin + ${k}u * HANDERS) * eight_values(handed_${k});
    }
//#end
    for (var n = begin + HANDED_AHEAD * HANDERS; n < count; n += HANDERS) {
      sum += handed_value(n) * eight_values(handed_row(tid, first, n));
    }
    hand_stage(tid, sum);
  }
  workgroupBarrier();
//#if HANDED_TWICE
  if (tid < HANDED_RANK * HANDED_GROUPS) {
    var sum = 0.0;
    for (var i = tid; i < HANDED_RANK * HANDERS; i += HANDED_RANK * HANDED_GROUPS) {
      sum += hand_staged(i);
    }
    handed_sums[tid] = sum;
  }
  workgroupBarrier();
  if (tid < HANDED_RANK) {
    var sum = 0.0;
    for (var g = 0u; g < bound(HANDED_GROUPS); g++) {
      sum += handed_sums[g * HANDED_RANK + tid];
    }
    store_handed(tid, sum);
  }
//#else
  for (var r = tid; r < HANDED_RANK; r += THREADS) {
    var sum = 0.0;
    for (var h = 0u; h < bound(HANDERS); h++) {
      sum += hand_staged(h * HANDED_RANK + r);
    }
    store_handed(r, sum);
  }
//#endif
}
