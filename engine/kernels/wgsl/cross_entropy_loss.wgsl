// loss += factor sum over rows of log(sum) + largest - own: one workgroup, in a fixed order.
//#include cross_entropy.wgsl
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  var sum = 0.0;
  for (var row = thread; row < step.tokens; row += THREADS) {
    if (targets[row] < VOCAB) {
      // The largest is taken off before the small logarithm is added.
      sum += (state[row].x - state[row].z) + log(state[row].y);
    }
  }
  let total = workgroup_sum(thread, sum);
  if (thread == 0u) {
    loss[0] += params.factor * total;
  }
}
