// y = gelu(z) m (QUICK: its approximation by a sigmoid) for T tokens, where z and m are parts of wider rows.
//#include step.wgsl
//#include epilogue.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH || id.y >= step.tokens) {
    return;
  }
//#if TWO_BUFFERS
  let m = mul[id.y * MUL_STRIDE + MUL_OFFSET + id.x];
//#else
  let m = z[id.y * Z_STRIDE + MUL_OFFSET + id.x];
//#endif
  let value = z[id.y * Z_STRIDE + id.x];
//#if QUICK
  y[id.y * WIDTH + id.x] = value / (1.0 + exp(-clamp(1.702 * value, -80.0, 80.0))) * m;
//#else
  y[id.y * WIDTH + id.x] = gelu_tanh(value) * m;
//#endif
}
