// The way back through gate.wgsl: dz = dy m gelu'(z) and, where m is part of z's rows, dm = dy
// gelu(z). With t = tanh(c (z + a z³)): gelu' = (1 + t) / 2 + z (1 - t²) c (1 + 3 a z²) / 2.
//#include step.wgsl
//#include epilogue.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH || id.y >= step.tokens) {
    return;
  }
  let at = id.y * Z_STRIDE + id.x;
  let x = z[at];
  let g = dy[id.y * WIDTH + id.x];
//#if TWO_BUFFERS
  let m = mul[id.y * MUL_STRIDE + MUL_OFFSET + id.x];
//#else
  let m = z[id.y * Z_STRIDE + MUL_OFFSET + id.x];
  dz[id.y * Z_STRIDE + MUL_OFFSET + id.x] = g * gelu_tanh(x);
//#endif
  let t = safe_tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  let slope = 0.5 * (1.0 + t) +
              0.5 * x * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * x * x);
  dz[at] = g * m * slope;
}
