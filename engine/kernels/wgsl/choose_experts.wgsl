// The experts of T tokens, a workgroup a token; experts.h says which. An expert's place is the number of
// those before it, so that every place is taken, once, whatever the logits are.
//#include step.wgsl
//#include bound.wgsl
//#include logit_key.wgsl
//#include workgroup_reduce.wgsl
var<workgroup> keys: array<u32, COUNT>;
// A thread meets only its own experts' here.
var<workgroup> places: array<u32, COUNT>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let token = group.y * groups.x + group.x;
  if (token >= step.tokens) {
    return;
  }
  var most = -3.4e38;
  for (var e = thread; e < COUNT; e += THREADS) {
    keys[e] = logit_key(logits[token * COUNT + e]);
    most = max(most, key_logit(keys[e]));
  }
  let top = workgroup_max(thread, most);
  var all = 0.0;
  var best = 0.0;
  for (var e = thread; e < COUNT; e += THREADS) {
    let key = keys[e];
    var place = 0u;
    for (var o = 0u; o < bound(COUNT); o++) {
      place += u32(keys[o] > key || (keys[o] == key && o < e));
    }
    places[e] = place;
    let value = exp(max(key_logit(key) - top, -100.0));
    all += value;
    best += select(0.0, value, place < USED);
  }
  let total = workgroup_sum(thread, all);
  let sum = max(workgroup_sum(thread, best) / total, 6.103515625e-5);
  for (var e = thread; e < COUNT; e += THREADS) {
    if (places[e] < USED) {
      let value = exp(max(key_logit(keys[e]) - top, -100.0)) / total;
      chosen[token * USED + places[e]] = vec2<u32>(e, bitcast<u32>(value / sum * scales[e]));
    }
  }
}
