// Joins a chunk of the vocabulary to what a row knows of those before: state[row] = (largest logit,
// sum of exp(logit - largest), the target's logit). One workgroup a row.
//#include cross_entropy.wgsl
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let row = group.y * groups.x + group.x;
  if (row >= step.tokens) {
    return;
  }
  var before = vec4<f32>(-3.4e38, 0.0, 0.0, 0.0);
  if (step.position > 0u) {
    before = state[row];
  }
  var largest = before.x;
  for (var word = thread; word < step.spans; word += THREADS) {
    largest = max(largest, logit(row, word));
  }
  let top = workgroup_max(thread, largest);
  var sum = 0.0;
  for (var word = thread; word < step.spans; word += THREADS) {
    sum += exp(logit(row, word) - top);
  }
  let total = workgroup_sum(thread, sum) + before.y * exp(before.x - top);
  if (thread == 0u) {
    var own = before.z;
    let wanted = targets[row];
    if (wanted >= step.position && wanted - step.position < step.spans) {
      own = logit(row, wanted - step.position);
    }
    state[row] = vec4<f32>(top, total, own, 0.0);
  }
}
