// Sums over the threads of a workgroup (THREADS = 1 << LOG_THREADS of them). The subgroup form
// assumes no subgroup size, nor how threads are put into subgroups: subgroup_step() finds out by
// shuffling thread numbers how many neighbours shuffles can merge, and workgroup memory does the rest:
// the includer's `tile`, an array of at least THREADS vec4<f32> that nobody uses during a sum and
// that all may use after it.
//#include bound.wgsl

//#if SUBGROUPS
var<workgroup> step_inverse: atomic<u32>;
var<workgroup> step_shared: u32;

// The largest power of two such that every aligned run of as many threads lies in one subgroup, where
// shuffling by a mask reaches the thread whose number differs by that mask. Uniform.
fn find_merge_step(tid: u32, invocation: u32, size: u32) -> u32 {
  var run = 1u;
  var whole = true;
//#repeat i LOG_SHUFFLES
  {
    const MASK = 1u << ${i}u;
    // A mask beyond the subgroup's size is undefined: 0 gives back the thread's own number.
    let other = subgroupShuffleXor(tid, MASK & (size - 1u));
    whole = whole && (invocation ^ MASK) < size && other == (tid ^ MASK);
    run = select(run, 2u * MASK, whole);
  }
//#end
  atomicMax(&step_inverse, THREADS / run);
  workgroupBarrier();
  if (tid == 0u) {
    step_shared = THREADS / atomicLoad(&step_inverse);
  }
  return workgroupUniformLoad(&step_shared);
}

// The sum over all threads, for all of them.
fn workgroup_sum(value: vec4<f32>, tid: u32, merge: u32) -> vec4<f32> {
  var v = value;
//#repeat i LOG_SHUFFLES
  if ((1u << ${i}u) < merge) {
    v += subgroupShuffleXor(v, 1u << ${i}u);
  }
//#end
  if (merge == THREADS) {
    return v;
  }
  if ((tid & (merge - 1u)) == 0u) {
    tile[tid / merge] = v;
  }
  workgroupBarrier();
  var total = vec4<f32>(0.0);
  for (var i = 0u; i < bound(THREADS / merge); i++) {
    total += tile[i];
  }
  workgroupBarrier();
  return total;
}
//#else
var<workgroup> reduce_parts: array<vec4<f32>, 16>;

// The sum over all threads, for all of them. `merge` is of the subgroup form only.
fn workgroup_sum(value: vec4<f32>, tid: u32, merge: u32) -> vec4<f32> {
  tile[tid] = value;
  workgroupBarrier();
  if (tid < 16u) {
    var part = vec4<f32>(0.0);
    for (var i = tid; i < THREADS; i += 16u) {
      part += tile[i];
    }
    reduce_parts[tid] = part;
  }
  workgroupBarrier();
  var total = vec4<f32>(0.0);
  for (var i = 0u; i < bound(16u); i++) {
    total += reduce_parts[i];
  }
  return total;
}
//#endif
