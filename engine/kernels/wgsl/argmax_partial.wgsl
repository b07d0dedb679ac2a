// The best logit of each run of SLICE logits: partial[workgroup] = (key, id).
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let begin = group.x * SLICE;
  let end = min(begin + SLICE, VOCAB);
  var best = Best(0u, 0xffffffffu);
  for (var id = begin + thread; id < end; id += THREADS) {
    best = better(best, Best(logit_key(logits[id]), id));
  }
  best = workgroup_best(thread, best);
  if (thread == 0u) {
    partial[group.x] = vec2<u32>(best.key, best.id);
  }
}
