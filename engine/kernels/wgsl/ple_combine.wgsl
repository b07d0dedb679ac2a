// (rms(ctx / sqrt(hidden)) * norm + tok) / sqrt(2) for T tokens: one workgroup a (layer, token).
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let token = group.y;
  if (token >= step.tokens) {
    return;
  }
  let base = (token * LAYERS + group.x) * WIDTH;
  var squares = 0.0;
  for (var c = thread; c < WIDTH; c += THREADS) {
    let x = ctx[base + c] * CTX_SCALE;
    squares += x * x;
  }
  let inverse = CTX_SCALE / sqrt(workgroup_sum(thread, squares) / f32(WIDTH) + EPS);
  for (var c = thread; c < WIDTH; c += THREADS) {
    ple[base + c] = (ctx[base + c] * inverse * norm[c] + tok[base + c]) * 0.70710678118654752;
  }
}
