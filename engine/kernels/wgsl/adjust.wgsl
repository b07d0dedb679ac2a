// Penalties and biases, one thread an entry (sampling.h).
struct AdjustEntry {
  id: u32,
  count: f32,
  bias: f32,
  pad: u32,
}
struct AdjustParams {
  entries: u32,
  repeat_penalty: f32,
  presence_penalty: f32,
  frequency_penalty: f32,
}

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.entries) {
    return;
  }
  let entry = entries[id.x];
  if (entry.id >= VOCAB) {
    return;
  }
  var l = logits[entry.id];
  if (entry.count > 0.0) {
    l = select(l * params.repeat_penalty, l / params.repeat_penalty, l > 0.0);
    l -= entry.count * params.frequency_penalty + params.presence_penalty;
  }
  logits[entry.id] = clamp(l + entry.bias, -1e30, 1e30);
}
