// The K best of all runs, sorted, with the maximum and the log of the sum of exponentials.
var<workgroup> found: atomic<u32>;
var<workgroup> best: array<Item, K>;

// Slots that a short run left empty come last of all.
fn item(i: u32) -> Item {
  if (i % K >= partial[4u * (i / K)]) {
    return Item(0u, 0xffffffffu);
  }
  return Item(partial[4u * RUNS + 2u * i], partial[4u * RUNS + 2u * i + 1u]);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  var top = -3.4e38;
  for (var i = thread; i < RUNS; i += THREADS) {
    top = max(top, bitcast<f32>(partial[4u * i + 1u]));
  }
  top = workgroup_max(thread, top);
  var sum = 0.0;
  for (var i = thread; i < RUNS; i += THREADS) {
    sum += bitcast<f32>(partial[4u * i + 2u]) * exp(bitcast<f32>(partial[4u * i + 1u]) - top);
  }
  sum = workgroup_sum(thread, sum);

  let want = min(K, VOCAB);
  let threshold = select_threshold(thread, RUNS * K, want);
  for (var i = thread; i < RUNS * K; i += THREADS) {
    let x = item(i);
    if (taken(x, threshold)) {
      let slot = atomicAdd(&found, 1u);
      if (slot < want) {
        best[slot] = x;
      }
    }
  }
  workgroupBarrier();
  if (thread < want) {
    let x = best[thread];
    var rank = 0u;
    for (var i = 0u; i < want; i += 1u) {
      let y = best[i];
      if (y.key > x.key || (y.key == x.key && y.id < x.id)) {
        rank += 1u;
      }
    }
    candidates[4u + 2u * rank] = x.id;
    candidates[5u + 2u * rank] = bitcast<u32>(key_logit(x.key));
  }
  if (thread == 0u) {
    candidates[0] = want;
    candidates[1] = bitcast<u32>(top);
    candidates[2] = bitcast<u32>(top + log(sum));
    candidates[3] = 0u;
  }
}
