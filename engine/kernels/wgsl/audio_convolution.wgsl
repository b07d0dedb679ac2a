// A causal convolution of every column over time, its norm, and SiLU. One workgroup a token; a thread
// meets only its own columns, so what it stored it may read again without a barrier.
//#include step.wgsl
fn x_at(position: u32, column: u32) -> f32 {
  if (position < step.position) {
    return past[position % PAST * COLS + column];
  }
  return x[(position - step.position) * COLS + column];
}

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
  let position = step.position + token;
  var squares = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    var sum = 0.0;
    for (var n = 0u; n < bound(min(TAPS, position + 1u)); n++) {
      sum += weights[(TAPS - 1u - n) * COLS + c] * x_at(position - n, c);
    }
    y[token * COLS + c] = sum;
    squares += sum * sum;
  }
  let scale = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(COLS) + EPS);
  for (var c = thread; c < COLS; c += THREADS) {
    let z = y[token * COLS + c] * scale * weights[TAPS * COLS + c];
    y[token * COLS + c] = z / (1.0 + exp(-clamp(z, -80.0, 80.0)));
  }
}
