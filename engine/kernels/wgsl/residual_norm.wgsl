// The residual update with its norms for T tokens, one workgroup a token. A thread meets only its
// own columns, so what it stored it may read again without a barrier.
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
//#if HAS_DELTA
  var scale = 1.0;
//#if HAS_POST
  for (var c = thread; c < COLS; c += THREADS) {
    squares += delta[base + c] * delta[base + c];
  }
  scale = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(COLS) + EPS);
  squares = 0.0;
//#endif
  let layer_scale = norms[2u * COLS];
  for (var c = thread; c < COLS; c += THREADS) {
    var d = delta[base + c] * scale;
//#if HAS_POST
    d *= norms[c];
//#endif
    let x = (x_old[base + c] + d) * layer_scale;
    x_new[base + c] = x;
    squares += x * x;
  }
//#else
  for (var c = thread; c < COLS; c += THREADS) {
    squares += x_old[base + c] * x_old[base + c];
  }
//#endif
//#if HAS_PRE
  let inverse = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(COLS) + EPS);
  for (var c = thread; c < COLS; c += THREADS) {
//#if HAS_DELTA
    h[base + c] = x_new[base + c] * inverse * norms[COLS + c];
//#else
    h[base + c] = x_old[base + c] * inverse * norms[COLS + c];
//#endif
  }
//#endif
}
