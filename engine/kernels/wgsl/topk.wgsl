// The best logits of each run of SLICE logits, unsorted, with the run's maximum and sums of
// exponentials. partial: [RUNS] of (count, max, sum of exp(l - max), the same at the temperature),
// then [RUNS][wanted()] of (key, id).
var<workgroup> found: atomic<u32>;
var<private> run_begin: u32;

fn item(i: u32) -> Item {
  return Item(logit_key(logits[run_begin + i]), run_begin + i);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  run_begin = group.x * SLICE;
  let count = min(SLICE, VOCAB - group.x * SLICE);
  var top = -3.4e38;
  for (var i = thread; i < count; i += THREADS) {
    top = max(top, key_logit(item(i).key));
  }
  top = workgroup_max(thread, top);
  var sum = 0.0;
  var weight = 0.0;
  for (var i = thread; i < count; i += THREADS) {
    let l = key_logit(item(i).key);
    sum += exp(l - top);
    weight += sample_weight(l, top);
  }
  sum = workgroup_sum(thread, sum);
  weight = workgroup_sum(thread, weight);

  let want = min(wanted(), count);
  let threshold = select_threshold(thread, count, want);
  for (var i = thread; i < count; i += THREADS) {
    let x = item(i);
    if (taken(x, threshold)) {
      let slot = atomicAdd(&found, 1u);
      if (slot < want) {
        let at = 4u * RUNS + 2u * (group.x * wanted() + slot);
        partial[at] = x.key;
        partial[at + 1u] = x.id;
      }
    }
  }
  if (thread == 0u) {
    partial[4u * group.x] = want;
    partial[4u * group.x + 1u] = bitcast<u32>(top);
    partial[4u * group.x + 2u] = bitcast<u32>(sum);
    partial[4u * group.x + 3u] = bitcast<u32>(weight);
  }
}
