// F32: 8 vectors a unit.
fn f32_half(p: Planes, row: u32, u: u32, h: u32) -> mat4x4<f32> {
  let at = p.quants + 8u * (row * UNITS + u) + 4u * h;
  return mat4x4<f32>(bitcast<vec4<f32>>(weights[at]), bitcast<vec4<f32>>(weights[at + 1u]),
                     bitcast<vec4<f32>>(weights[at + 2u]), bitcast<vec4<f32>>(weights[at + 3u]));
}

fn f32_fetch(p: Planes, row: u32, u: u32) -> Fetched { return Fetched(); }

fn f32_dot(f: Fetched, p: Planes, row: u32, u: u32, a: Activations) -> f32 {
  return matrix_dot(f32_half(p, row, u, 0u), f32_half(p, row, u, 1u), a);
}
