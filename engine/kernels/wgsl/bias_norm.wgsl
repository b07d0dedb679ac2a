// y = rms(x + bias), without weights. One workgroup a token.
//#include step.wgsl
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
  let base = token * COLS;
  var squares = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    let value = x[base + c] + bias[c];
    squares += value * value;
  }
  let scale = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(COLS) + EPS);
  for (var c = thread; c < COLS; c += THREADS) {
    y[base + c] = (x[base + c] + bias[c]) * scale;
  }
}
