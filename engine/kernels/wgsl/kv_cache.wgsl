// The KV cache seen in units of 8 elements. The includer gives KV_HEADS, UNITS (a row's units),
// KV_STRIDE (a row's elements of the buffer), SLOTS: u32, the flags KV_F32, KV_Q8 and KV_WRITE, and
// binds k_cache and v_cache as array<vec4<u32>> (f16 packed), array<vec4<f32>> or array<vec2<u32>>
// (8 bits: UNITS units, then the scales of blocks of 4 units, upper halves of floats, 4 in an
// element).
struct Unit {
  a: vec4<f32>,
  b: vec4<f32>,
}

// Where the row of head `kv_head` at position `position` of a sequence begins.
fn kv_row(sequence: u32, position: u32, kv_head: u32) -> u32 {
  return ((sequence * SLOTS + position % SLOTS) * KV_HEADS + kv_head) * KV_STRIDE;
}

//#if KV_F32
fn load_k(row: u32, unit: u32) -> Unit {
  return Unit(k_cache[row + 2u * unit], k_cache[row + 2u * unit + 1u]);
}

fn load_v(row: u32, unit: u32) -> Unit {
  return Unit(v_cache[row + 2u * unit], v_cache[row + 2u * unit + 1u]);
}
//#if KV_WRITE
// What the cache gives back of four elements whose block has the scale `scale`, for all types.
fn kv_kept(x: vec4<f32>, scale: f32) -> vec4<f32> {
  return x;
}

fn store_k(row: u32, unit: u32, value: Unit, scale: f32) {
  k_cache[row + 2u * unit] = value.a;
  k_cache[row + 2u * unit + 1u] = value.b;
}

fn store_v(row: u32, unit: u32, value: Unit, scale: f32) {
  v_cache[row + 2u * unit] = value.a;
  v_cache[row + 2u * unit + 1u] = value.b;
}
//#endif
//#else
//#if KV_Q8
fn unpack_unit(w: vec2<u32>, scales: vec2<u32>, unit: u32) -> Unit {
  let two = select(scales.x, scales.y, (unit & 8u) != 0u);
  let scale = bitcast<f32>(select(two << 16u, two & 0xffff0000u, (unit & 4u) != 0u));
  return Unit(scale * unpack4x8snorm(w.x), scale * unpack4x8snorm(w.y));
}

fn load_k(row: u32, unit: u32) -> Unit {
  return unpack_unit(k_cache[row + unit], k_cache[row + UNITS + unit / 16u], unit);
}

fn load_v(row: u32, unit: u32) -> Unit {
  return unpack_unit(v_cache[row + unit], v_cache[row + UNITS + unit / 16u], unit);
}
//#if KV_WRITE
fn pack_four(x: vec4<f32>, scale: f32) -> u32 {
  return pack4x8snorm(x / max(scale, 1e-30));
}

fn kv_kept(x: vec4<f32>, scale: f32) -> vec4<f32> {
  return scale * unpack4x8snorm(pack_four(x, scale));
}

fn store_k(row: u32, unit: u32, value: Unit, scale: f32) {
  k_cache[row + unit] = vec2<u32>(pack_four(value.a, scale), pack_four(value.b, scale));
}

fn store_v(row: u32, unit: u32, value: Unit, scale: f32) {
  v_cache[row + unit] = vec2<u32>(pack_four(value.a, scale), pack_four(value.b, scale));
}
//#endif
//#else
fn unpack_unit(w: vec4<u32>) -> Unit {
  return Unit(vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)),
              vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)));
}

fn load_k(row: u32, unit: u32) -> Unit {
  return unpack_unit(k_cache[row + unit]);
}

fn load_v(row: u32, unit: u32) -> Unit {
  return unpack_unit(v_cache[row + unit]);
}
//#if KV_WRITE
// f16 ends at 65504; past it the packing is undefined. One at a time: Mesa 25's llvmpipe takes the
// second of two that are packed and unpacked for the float that it was.
fn kv_round(x: f32) -> f32 {
  return unpack2x16float(pack2x16float(vec2<f32>(clamp(x, -65504.0, 65504.0), 0.0))).x;
}

fn kv_kept(x: vec4<f32>, scale: f32) -> vec4<f32> {
  return vec4<f32>(kv_round(x.x), kv_round(x.y), kv_round(x.z), kv_round(x.w));
}

fn pack_unit(value: Unit) -> vec4<u32> {
  return vec4<u32>(pack2x16float(value.a.xy), pack2x16float(value.a.zw),
                   pack2x16float(value.b.xy), pack2x16float(value.b.zw));
}

fn store_k(row: u32, unit: u32, value: Unit, scale: f32) {
  k_cache[row + unit] = pack_unit(value);
}

fn store_v(row: u32, unit: u32, value: Unit, scale: f32) {
  v_cache[row + unit] = pack_unit(value);
}
//#endif
//#endif
//#endif
