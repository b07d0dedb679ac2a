// The best (key, id) of the workgroup: the largest key, among equal ones the lowest id. For every
// thread; to be called in uniform control flow. The includer gives const
// THREADS: u32, a multiple of 64.
struct Best {
  key: u32,
  id: u32,
}

fn better(x: Best, y: Best) -> Best {
  let wins = (y.key > x.key) | ((y.key == x.key) & (y.id < x.id));
  return Best(select(x.key, y.key, wins), select(x.id, y.id, wins));
}

var<workgroup> best_slots: array<Best, THREADS>;
var<workgroup> best_stage: array<Best, 16>;

fn workgroup_best(thread: u32, value: Best) -> Best {
//#if SUBGROUPS
  // A subgroup's best goes to each of its slots. Subgroups have at least 4 invocations in a row, so
  // one slot in 4 tells all.
  let key = subgroupMax(value.key);
  let id = subgroupMin(select(0xffffffffu, value.id, value.key == key));
  best_slots[thread] = Best(key, id);
//#else
  best_slots[thread] = value;
//#endif
  workgroupBarrier();
  if (thread < 16u) {
//#if SUBGROUPS
    var best = best_slots[(THREADS / 16u) * thread];
    for (var i = 4u; i < THREADS / 16u; i += 4u) {
      best = better(best, best_slots[(THREADS / 16u) * thread + i]);
    }
//#else
    var best = best_slots[thread];
    for (var i = thread + 16u; i < THREADS; i += 16u) {
      best = better(best, best_slots[i]);
    }
//#endif
    best_stage[thread] = best;
  }
  workgroupBarrier();
  var best = best_stage[0];
  for (var i = 1u; i < 16u; i += 1u) {
    best = better(best, best_stage[i]);
  }
  return best;
}
