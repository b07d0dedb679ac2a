// The way back through residual_norm.wgsl, one workgroup a token. dx holds dL/dx_new and becomes
// dL/dx_old. For y = w r x with r = (mean(x²) + eps)^(-1/2) and g = w dy:
// dx = r g - x r³ mean(g x).
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
//#if HAS_PRE
  var squares = 0.0;
  var products = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    squares += x[base + c] * x[base + c];
    products += norms[COLS + c] * dh[base + c] * x[base + c];
  }
  let inverse = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(COLS) + EPS);
  let along = workgroup_sum(thread, products) / f32(COLS) * inverse * inverse * inverse;
//#endif
//#if HAS_DELTA
  let layer_scale = norms[2u * COLS];
//#endif
  for (var c = thread; c < COLS; c += THREADS) {
    var g = dx[base + c];
//#if HAS_PRE
    g += inverse * norms[COLS + c] * dh[base + c] - along * x[base + c];
//#endif
//#if HAS_DELTA
    g *= layer_scale;
//#endif
    dx[base + c] = g;
  }
//#if HAS_DELTA
//#if HAS_POST
  var delta_squares = 0.0;
  var delta_products = 0.0;
  for (var c = thread; c < COLS; c += THREADS) {
    delta_squares += delta[base + c] * delta[base + c];
    delta_products += norms[c] * dx[base + c] * delta[base + c];
  }
  let r = 1.0 / sqrt(workgroup_sum(thread, delta_squares) / f32(COLS) + EPS);
  let s = workgroup_sum(thread, delta_products) / f32(COLS) * r * r * r;
  for (var c = thread; c < COLS; c += THREADS) {
    ddelta[base + c] = r * norms[c] * dx[base + c] - s * delta[base + c];
  }
//#else
  for (var c = thread; c < COLS; c += THREADS) {
    ddelta[base + c] = dx[base + c];
  }
//#endif
//#endif
}
