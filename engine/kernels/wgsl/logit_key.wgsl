// Logits as u32 keys in the same order, so that comparing needs no care for NaN (the smallest, 0)
// or for the two zeros (equal).
fn logit_key(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let key = select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
  let ordered = select(key, 0x80000000u, bits == 0x80000000u);
  return select(ordered, 0u, (bits & 0x7fffffffu) > 0x7f800000u);
}

// The logit of a key; infinities come back as ±3.4e38.
fn key_logit(key: u32) -> f32 {
  let low = 0x00800000u;   // the key of -3.4028235e38
  let high = 0xff7fffffu;  // the key of +3.4028235e38
  let k = clamp(key, low, high);
  return bitcast<f32>(select(~k, k & 0x7fffffffu, k >= 0x80000000u));
}
