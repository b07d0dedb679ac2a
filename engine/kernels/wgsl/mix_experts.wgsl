// The dense branch and the experts of T tokens as one residual update, a workgroup a token; experts.h
// says how. A thread meets only its own columns, so what it stored it may read again without a barrier.
//#include step.wgsl
//#include bound.wgsl
//#include workgroup_reduce.wgsl
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
  let first = token * USED * COLS;
  let row = token * DELTA_STRIDE;
  var dense = 0.0;
  var mixed = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    var z = 0.0;
    for (var i = 0u; i < bound(USED); i++) {
      z += bitcast<f32>(chosen[token * USED + i].y) * out[first + i * COLS + c];
    }
    out[first + c] = z;
    mixed += z * z;
    dense += delta[row + c] * delta[row + c];
  }
  let dense_scale = 1.0 / sqrt(workgroup_sum(thread, dense) / f32(COLS) + EPS);
  let mixed_scale = 1.0 / sqrt(workgroup_sum(thread, mixed) / f32(COLS) + EPS);
  for (var c = thread; c < COLS; c += THREADS) {
    delta[row + c] =
        delta[row + c] * dense_scale * norms[c] + out[first + c] * mixed_scale * norms[COLS + c];
  }
}
