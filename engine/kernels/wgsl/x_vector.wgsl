// Vector k of a token's activations, zeros past its end.
fn x_vector(token: u32, k: u32) -> vec4<f32> {
//#if ALIGNED
  if (4u * k < COLS) {
    return x[token * (COLS / 4u) + k];
  }
  return vec4<f32>(0.0);
//#else
  var v = vec4<f32>(0.0);
  for (var i = 0u; i < bound(4u); i++) {
    if (4u * k + i < COLS) {
      v[i] = x[token * COLS + 4u * k + i];
    }
  }
  return v;
//#endif
}
