// Sums of squares, in two steps and a fixed order: every workgroup of the first (PARTS) sums a run
// of gradients; the one of the last sums theirs.
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  var sum = 0.0;
//#if PARTS
  let end = min(COUNT, (group.x + 1u) * RUN);
  for (var i = group.x * RUN + thread; i < end; i += THREADS) {
    sum += gradients[i] * gradients[i];
  }
  let total = workgroup_sum(thread, sum);
  if (thread == 0u) {
    partial[FIRST + group.x] = total;
  }
//#else
  for (var i = thread; i < COUNT; i += THREADS) {
    sum += partial[i];
  }
  let total = workgroup_sum(thread, sum);
  if (thread == 0u) {
    result[1] = total;
  }
//#endif
}
