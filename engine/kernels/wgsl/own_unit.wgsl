// The K and V rows that a kernel makes, as the cache keeps them. The includer gives
// own_value(d: u32) -> f32, elements of rows of 8 * UNITS with zeros at the end, and kv_cache.wgsl
// with KV_WRITE.

// Of the 8-bit type's block of 4 units that unit u of the row at `base` is in: its largest magnitude,
// rounded up to what the upper half of a float holds. 1 for other types.
fn own_scale(base: u32, u: u32) -> f32 {
//#if KV_Q8
  var top = 0.0;
  let first = 32u * (u / 4u);
  for (var d = first; d < min(first + 32u, 8u * UNITS); d += 1u) {
    top = max(top, abs(own_value(base + d)));
  }
  return bitcast<f32>((bitcast<u32>(top) + 0xffffu) & 0xffff0000u);
//#else
  return 1.0;
//#endif
}

// Unit u of the row at `base`, rounded to the cache's type.
fn own_unit(base: u32, u: u32) -> Unit {
  let d = base + 8u * u;
  let scale = own_scale(base, u);
  return Unit(kv_kept(vec4<f32>(own_value(d), own_value(d + 1u), own_value(d + 2u),
                                own_value(d + 3u)), scale),
              kv_kept(vec4<f32>(own_value(d + 4u), own_value(d + 5u), own_value(d + 6u),
                                own_value(d + 7u)), scale));
}

//#if KV_Q8
// The scales that belong to units u to u + 15.
fn own_scales(base: u32, u: u32) -> vec2<u32> {
  var scales = vec4<u32>();
  for (var block = 0u; block < 4u; block += 1u) {
    scales[block] = bitcast<u32>(own_scale(base, u + 4u * block));
  }
  return (scales.xz >> vec2<u32>(16u)) | scales.yw;
}
//#endif

// Puts unit u of the row at `base`, rounded before, into the row `row` of the cache. Every unit of
// the row must be kept.
fn keep_k(row: u32, base: u32, u: u32, value: Unit) {
  store_k(row, u, value, own_scale(base, u));
//#if KV_Q8
  if (u % 16u == 0u) {
    k_cache[row + UNITS + u / 16u] = own_scales(base, u);
  }
//#endif
}

fn keep_v(row: u32, base: u32, u: u32, value: Unit) {
  store_v(row, u, value, own_scale(base, u));
//#if KV_Q8
  if (u % 16u == 0u) {
    v_cache[row + UNITS + u / 16u] = own_scales(base, u);
  }
//#endif
}
