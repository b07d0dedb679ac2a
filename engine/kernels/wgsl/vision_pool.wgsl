// A soft token from SIDE by SIDE patches, normed. One workgroup a soft token; a thread meets only its
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
  let across = grid.columns / SIDE;
  let corner = token / across * SIDE * grid.columns + token % across * SIDE;
  var squares = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    var sum = 0.0;
    for (var i = 0u; i < bound(SIDE * SIDE); i++) {
      sum += x[(corner + i / SIDE * grid.columns + i % SIDE) * COLS + c];
    }
    sum *= FACTOR;
//#if STANDARDISES
    sum = (sum - standard[c]) * standard[COLS + c];
//#endif
    out[token * COLS + c] = sum;
    squares += sum * sum;
  }
  let scale = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(COLS) + EPS);
  for (var c = thread; c < COLS; c += THREADS) {
    out[token * COLS + c] *= scale;
  }
}
