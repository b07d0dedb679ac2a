// F16: 4 vectors a unit.
fn f16_pair(x: u32, y: u32) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(x), unpack2x16float(y));
}

fn f16_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = p.quants + 4u * (row * UNITS + u) + 2u * h;
  let a = weights[at];
  let b = weights[at + 1u];
  return mat4x4<f32>(f16_pair(a.x, a.y), f16_pair(a.z, a.w), f16_pair(b.x, b.y), f16_pair(b.z, b.w));
}

fn f16_fetch(p: Planes, row: u32, u: u32) -> Fetched { return Fetched(); }

fn f16_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  return matrix_dot(f16_half(p, row, u, 0u), f16_half(p, row, u, 1u), a);
}
