// Ends a product that has a low-rank change: adds B (A h) to what the matrices gave, and does what
// comes after the product. A workgroup has THREADS outputs of one token.
//#if QUANTIZES
var<workgroup> values: array<f32, THREADS>;

fn row_vector(n: u32) -> vec4<f32> {
  return vec4<f32>(values[n], values[n + 1u], values[n + 2u], values[n + 3u]);
}
fn store_word(at: u32, word: u32) { out[at] = word; }
//#include activation_bytes.wgsl
//#include hand_over.wgsl
//#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let token = group.y;
  let row = group.x * THREADS + tid;
  let inside = row < OUTPUTS;
  let at = token * Y_STRIDE + row;
  var total = 0.0;
  var change: LowRow;
//#if GEGLU
  var up = 0.0;
  var up_change: LowRow;
//#endif
  if (inside) {
    total = y[at];
    change = fetch_change(row);
//#if GEGLU
    up = y[at + OUTPUTS];
    up_change = fetch_change(row + OUTPUTS);
//#endif
  }
  load_low(tid, token);
  workgroupBarrier();
  if (inside) {
    total += change_of(change);
//#if GEGLU
    let value = gelu_tanh(total) * (up + change_of(up_change));
//#if QUANTIZES
    values[tid] = value;
//#else
    out[token * OUTPUTS + row] = value;
//#endif
//#else
    y[at] = finished(total, token, row);
//#endif
  }
//#if QUANTIZES
  workgroupBarrier();
  let n = 4u * tid;
  if (n < THREADS && group.x * THREADS + n < OUTPUTS) {
    quantize_rows(n, (group.x * THREADS + n) / 16u);
  }
//#endif
}
