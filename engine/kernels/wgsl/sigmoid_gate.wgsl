// y = z sigmoid(g) for T tokens, where z and g are parts of a row, or the same (SiLU).
//#include step.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH || id.y >= step.tokens) {
    return;
  }
  let at = id.y * Z_STRIDE + id.x;
  y[id.y * WIDTH + id.x] = z[at] / (1.0 + exp(-clamp(z[at + GATE_OFFSET], -80.0, 80.0)));
}
