// Activations as signed bytes: value = scale * (128 * high + low), or scale * high where one byte
// must do (TWO_BYTES).
//#if TWO_BYTES
const LIMIT = 16319.0;  // 128 * 127 + 63
//#else
const LIMIT = 127.0;
//#endif

fn absolute_max(v: vec4<f32>) -> f32 {
  let a = abs(v);
  return max(max(a.x, a.y), max(a.z, a.w));
}

fn largest(v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>) -> f32 {
  return max(max(absolute_max(v0), absolute_max(v1)), max(absolute_max(v2), absolute_max(v3)));
}

// 1 / scale of values of which `most` is the largest. Zeros, and numbers too small to divide by,
// become 0.
fn inverse_scale(most: f32) -> f32 { return select(0.0, LIMIT / most, most > 1e-30); }

fn rounded(v: vec4<f32>, inverse: f32) -> vec4<i32> { return vec4<i32>(round(v * inverse)); }

//#if TWO_BYTES
// Both bytes are signed, so that low is -64 to 63.
fn high_bytes(q: vec4<i32>) -> u32 { return pack4xI8((q + 64) >> vec4<u32>(7u)); }
fn low_bytes(q: vec4<i32>) -> u32 { return pack4xI8(q - ((q + 64) >> vec4<u32>(7u)) * 128); }
//#else
fn high_bytes(q: vec4<i32>) -> u32 { return pack4xI8(q); }
//#endif
