// What a workgroup's outputs give of the next product's A h. The includer gives adapter.wgsl,
// HANDED_RANK, HANDED (where A, transposed, begins in `adapter`, in pairs), HANDERS (threads that
// share the outputs, for each pair of the ranks; HANDED_RANK / 2 * HANDERS <= THREADS), HANDED_AHEAD
// (outputs of a thread whose rows of A are fetched early), HANDED_GROUPS (in which their partial sums
// are summed first; HANDED_RANK / 2 * HANDED_GROUPS <= THREADS where there are several),
// handed_value(n), room for partial sums: hand_stage(i, sum) of a pair, hand_staged(i); and
// store_handed(r, sum) of ranks r and r + 4.
const HANDED_PAIRS: u32 = HANDED_RANK / 2u;

//#repeat k HANDED_AHEAD
var<private> handed_${k}: Pair;
//#end

//#if HANDED_TWICE
var<workgroup> handed_sums: array<vec2<f32>, HANDED_PAIRS * HANDED_GROUPS>;
//#endif

fn handed_pair(tid: u32, first: u32, n: u32) -> Pair {
  return adapter_pair(HANDED + (first + n) * HANDED_PAIRS + tid % HANDED_PAIRS);
}

// first: the place of output 0 in the next product's input; `count` outputs are there.
fn fetch_handed(tid: u32, first: u32, count: u32) {
//#repeat k HANDED_AHEAD
  handed_${k} = handed_pair(tid, first, min(tid / HANDED_PAIRS + ${k}u * HANDERS, count - 1u));
//#end
}

// After fetch_handed() and a barrier, in uniform control flow.
fn hand_low(tid: u32, first: u32, count: u32) {
  if (tid < HANDED_PAIRS * HANDERS) {
    let begin = tid / HANDED_PAIRS;
    var sum = vec2<f32>();
//#repeat k HANDED_AHEAD
    if (begin + ${k}u * HANDERS < count) {
      sum += handed_value(begin + ${k}u * HANDERS) * pair_values(handed_${k});
    }
//#end
    for (var n = begin + HANDED_AHEAD * HANDERS; n < count; n += HANDERS) {
      sum += handed_value(n) * pair_values(handed_pair(tid, first, n));
    }
    hand_stage(tid, sum);
  }
  workgroupBarrier();
//#if HANDED_TWICE
  if (tid < HANDED_PAIRS * HANDED_GROUPS) {
    var sum = vec2<f32>();
    for (var i = tid; i < HANDED_PAIRS * HANDERS; i += HANDED_PAIRS * HANDED_GROUPS) {
      sum += hand_staged(i);
    }
    handed_sums[tid] = sum;
  }
  workgroupBarrier();
//#endif
  if (tid < HANDED_PAIRS) {
    var sum = vec2<f32>();
//#if HANDED_TWICE
    for (var g = 0u; g < bound(HANDED_GROUPS); g++) {
      sum += handed_sums[g * HANDED_PAIRS + tid];
    }
//#else
    for (var h = 0u; h < bound(HANDERS); h++) {
      sum += hand_staged(h * HANDED_PAIRS + tid);
    }
//#endif
    store_handed(8u * (tid >> 2u) + (tid & 3u), sum);
  }
}
