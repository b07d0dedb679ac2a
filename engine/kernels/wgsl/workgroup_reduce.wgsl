// Sum and maximum of one f32 a thread over the workgroup, known to every thread afterwards. To be
// called in uniform control flow. The includer gives const THREADS: u32, a power of two >= 16,
// and bound.wgsl.
//#if SUBGROUPS
// Right for any mixture of subgroup sizes >= 4 whose subgroups hold consecutive invocations: the
// first invocation of each is a multiple of 4. The self-test refuses devices that number otherwise.
const REDUCE_SLOTS: u32 = THREADS / 4u;
var<workgroup> reduce_slots: array<f32, REDUCE_SLOTS>;

fn workgroup_sum(thread: u32, value: f32) -> f32 {
  let sum = subgroupAdd(value);
  let first = subgroupBroadcastFirst(thread);
  if ((thread & 3u) == 0u) {
    reduce_slots[thread >> 2u] = select(0.0, sum, thread == first);
  }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < bound(REDUCE_SLOTS); i += 1u) {
    total += reduce_slots[i];
  }
  workgroupBarrier();
  return total;
}

fn workgroup_max(thread: u32, value: f32) -> f32 {
  let top = subgroupMax(value);
  let first = subgroupBroadcastFirst(thread);
  if ((thread & 3u) == 0u) {
    reduce_slots[thread >> 2u] = select(-3.4e38, top, thread == first);
  }
  workgroupBarrier();
  var total = -3.4e38;
  for (var i = 0u; i < bound(REDUCE_SLOTS); i += 1u) {
    total = max(total, reduce_slots[i]);
  }
  workgroupBarrier();
  return total;
}
//#else
var<workgroup> reduce_values: array<f32, THREADS>;
var<workgroup> reduce_stage: array<f32, 16>;

// Two stages and two barriers; a second call may follow at once, for its first barrier parts the
// readers of reduce_stage from its next writers.
fn workgroup_sum(thread: u32, value: f32) -> f32 {
  reduce_values[thread] = value;
  workgroupBarrier();
  if (thread < 16u) {
    var sum = 0.0;
    for (var i = thread; i < bound(THREADS); i += 16u) {
      sum += reduce_values[i];
    }
    reduce_stage[thread] = sum;
  }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < bound(16u); i += 1u) {
    total += reduce_stage[i];
  }
  return total;
}

fn workgroup_max(thread: u32, value: f32) -> f32 {
  reduce_values[thread] = value;
  workgroupBarrier();
  if (thread < 16u) {
    var top = -3.4e38;
    for (var i = thread; i < bound(THREADS); i += 16u) {
      top = max(top, reduce_values[i]);
    }
    reduce_stage[thread] = top;
  }
  workgroupBarrier();
  var total = -3.4e38;
  for (var i = 0u; i < bound(16u); i += 1u) {
    total = max(total, reduce_stage[i]);
  }
  return total;
}
//#endif
