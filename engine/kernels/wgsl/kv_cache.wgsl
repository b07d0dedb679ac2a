// The KV cache seen in units of 8 elements. The includer gives KV_HEADS, UNITS (a row's units),
// SLOTS: u32, the flag KV_F32, and binds k_cache and v_cache as array<vec4<u32>> (f16 packed) or
// array<vec4<f32>>.
struct Unit {
  a: vec4<f32>,
  b: vec4<f32>,
}

// The first unit of head `kv_head` at position `position` of a sequence.
fn kv_row(sequence: u32, position: u32, kv_head: u32) -> u32 {
  return ((sequence * SLOTS + position % SLOTS) * KV_HEADS + kv_head) * UNITS;
}

//#if KV_F32
fn kv_round(x: f32) -> f32 {
  return x;
}

fn load_k(unit: u32) -> Unit {
  return Unit(k_cache[2u * unit], k_cache[2u * unit + 1u]);
}

fn load_v(unit: u32) -> Unit {
  return Unit(v_cache[2u * unit], v_cache[2u * unit + 1u]);
}
//#if KV_WRITE
fn store_k(unit: u32, value: Unit) {
  k_cache[2u * unit] = value.a;
  k_cache[2u * unit + 1u] = value.b;
}

fn store_v(unit: u32, value: Unit) {
  v_cache[2u * unit] = value.a;
  v_cache[2u * unit + 1u] = value.b;
}
//#endif
//#else
// The value that the cache gives back. f16 ends at 65504; past it the packing is undefined.
fn kv_round(x: f32) -> f32 {
  return unpack2x16float(pack2x16float(vec2<f32>(clamp(x, -65504.0, 65504.0), 0.0))).x;
}

fn unpack_unit(w: vec4<u32>) -> Unit {
  return Unit(vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)),
              vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)));
}

fn load_k(unit: u32) -> Unit {
  return unpack_unit(k_cache[unit]);
}

fn load_v(unit: u32) -> Unit {
  return unpack_unit(v_cache[unit]);
}
//#if KV_WRITE
fn pack_unit(value: Unit) -> vec4<u32> {
  return vec4<u32>(pack2x16float(value.a.xy), pack2x16float(value.a.zw),
                   pack2x16float(value.b.xy), pack2x16float(value.b.zw));
}

fn store_k(unit: u32, value: Unit) {
  k_cache[unit] = pack_unit(value);
}

fn store_v(unit: u32, value: Unit) {
  v_cache[unit] = pack_unit(value);
}
//#endif
//#endif
