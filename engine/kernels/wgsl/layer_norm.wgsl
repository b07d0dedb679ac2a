// Layer norm of T rows, one workgroup a row. A thread meets only its own columns, so what it stored it may
// read again without a barrier.
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
  var sum = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    sum += value_at(base, c);
  }
  let mean = workgroup_sum(thread, sum) / f32(COLS);
  var squares = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    let off = value_at(base, c) - mean;
    squares += off * off;
  }
  let scale = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(COLS) + EPS);
  squares = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    let normed = (value_at(base, c) - mean) * scale * vectors[c] + vectors[COLS + c];
    y[base + c] = normed;
    squares += normed * normed;
  }
//#if RMS_AFTER
  let after = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(COLS) + RMS_EPS);
  for (var c = thread; c < COLS; c += THREADS) {
    y[base + c] *= after;
  }
//#endif
}

fn value_at(base: u32, c: u32) -> f32 {
//#if ADDS_BEFORE
  return x[base + c] + vectors[2u * COLS + c];
//#else
  return x[base + c];
//#endif
}
