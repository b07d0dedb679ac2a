// The best of all runs, sorted, with the maximum and the log of the sum of exponentials; then the
// draw of the next token, and the step advances.
var<workgroup> found: atomic<u32>;
var<workgroup> best: array<Item, K>;
var<workgroup> ranked: array<Item, K>;
//#include draw.wgsl

// Slots that a short run left empty come last of all.
fn item(i: u32) -> Item {
  if (i % wanted() >= partial[4u * (i / wanted())]) {
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

  let want = min(wanted(), VOCAB);
  let threshold = select_threshold(thread, RUNS * wanted(), want);
  for (var i = thread; i < RUNS * wanted(); i += THREADS) {
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
    ranked[rank] = x;
    candidates[8u + 2u * rank] = x.id;
    candidates[9u + 2u * rank] = bitcast<u32>(key_logit(x.key));
  }
  workgroupBarrier();
  let log_sum_exp = top + log(sum);
  let draw = draws[step.position % DRAW_SLOTS];
  let id = draw_token(thread, want, top, log_sum_exp, draw);
  if (thread == 0u) {
    candidates[0] = want;
    candidates[1] = bitcast<u32>(top);
    candidates[2] = bitcast<u32>(log_sum_exp);
    candidates[3] = id;
    candidates[4] = bitcast<u32>(logit(min(id, VOCAB - 1u)));
    tokens[0] = select(id, 0u, id == NO_TOKEN);
    results[step.position % RESULT_SLOTS] = id;
    step.position += 1u;
  }
}
