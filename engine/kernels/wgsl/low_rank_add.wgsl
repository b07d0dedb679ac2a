// Ends a product that has a low-rank change: adds B (f * (A h)) to what the matrices gave, and does
// what comes after the product. A workgroup has THREADS outputs of one token. `adapter`: a factor a
// row of A, then B, transposed, part by part; low_rank.cpp adds low_row(row): where that row's part
// is. Where all parts have one rank (AHEAD vectors of 4 of it), what is fetched of B is on its way
// while A h is read.
var<workgroup> low: array<f32, LOW_RANK>;

struct LowRow {
  first: u32,  // rank of the part
  rank: u32,   // how many it has
  at: u32,     // in `adapter`: B of the first rank
  step: u32,   // to the next rank's
//#repeat k AHEAD
  b_${k}: vec4<f32>,
//#end
}

fn load_low(tid: u32, token: u32) {
  for (var r = tid; r < LOW_RANK; r += THREADS) {
    low[r] = adapter[r] * low_sums[token * LOW_RANK + r];
  }
}

fn fetch_change(i: u32) -> LowRow {
  var row = low_row(i);
//#repeat k AHEAD
  {
    let at = row.at + 4u * ${k}u * row.step;
    row.b_${k} = vec4<f32>(adapter[at], adapter[at + row.step], adapter[at + 2u * row.step],
                           adapter[at + 3u * row.step]);
  }
//#end
  return row;
}

fn change_of(row: LowRow) -> f32 {
  var sum = 0.0;
//#repeat k AHEAD
  {
    let r = row.first + 4u * ${k}u;
    sum += dot(row.b_${k}, vec4<f32>(low[r], low[r + 1u], low[r + 2u], low[r + 3u]));
  }
//#end
  for (var r = 4u * AHEAD; r < row.rank; r++) {
    sum += low[row.first + r] * adapter[row.at + r * row.step];
  }
  return sum;
}

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
