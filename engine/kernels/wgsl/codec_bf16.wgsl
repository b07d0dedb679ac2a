// BF16: 4 vectors a unit.
fn bf16_pair(x: u32, y: u32) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(x << 16u, x & 0xFFFF0000u, y << 16u, y & 0xFFFF0000u));
}

fn bf16_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = p.quants + 4u * (row * UNITS + u) + 2u * h;
  let a = weights[at];
  let b = weights[at + 1u];
  return mat4x4<f32>(bf16_pair(a.x, a.y), bf16_pair(a.z, a.w), bf16_pair(b.x, b.y),
                     bf16_pair(b.z, b.w));
}

fn bf16_fetch(p: Planes, row: u32, u: u32) -> Fetched { return Fetched(); }

fn bf16_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  return matrix_dot(bf16_half(p, row, u, 0u), bf16_half(p, row, u, 1u), a);
}
