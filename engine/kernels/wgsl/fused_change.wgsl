// The low-rank change that a matvec makes by itself (fused_change.h). `adapter`: the change's buffer
// in vectors; low_sums: what such kernels pass on. matvec.cpp adds fused_change(part, row): what is
// added to a row.
//#if NEXT_RANK
// Row `row` of V's matrix, unit u.
//#if INTEGER
//#if TWO_BYTES
fn low_half(at: u32, high: vec4<u32>, rest: vec4<u32>) -> f32 {
  return dot(adapter[at], 128.0 * signed_bytes(high.x) + signed_bytes(rest.x)) +
         dot(adapter[at + 1u], 128.0 * signed_bytes(high.y) + signed_bytes(rest.y)) +
         dot(adapter[at + 2u], 128.0 * signed_bytes(high.z) + signed_bytes(rest.z)) +
         dot(adapter[at + 3u], 128.0 * signed_bytes(high.w) + signed_bytes(rest.w));
}
//#else
fn low_half(at: u32, high: vec4<u32>) -> f32 {
  return dot(adapter[at], signed_bytes(high.x)) + dot(adapter[at + 1u], signed_bytes(high.y)) +
         dot(adapter[at + 2u], signed_bytes(high.z)) + dot(adapter[at + 3u], signed_bytes(high.w));
}
//#endif
//#endif

fn next_dot(row: u32, u: u32, a: Activations) -> f32 {
  let at = NEXT_V + 8u * (row * UNITS + u);
//#if INTEGER
//#if TWO_BYTES
  return a.scale.x * low_half(at, a.high_0, a.low_0) +
         a.scale.y * low_half(at + 4u, a.high_1, a.low_1);
//#else
  return a.scale.x * low_half(at, a.high_0) + a.scale.y * low_half(at + 4u, a.high_1);
//#endif
//#else
  return matrix_dot(mat4x4<f32>(adapter[at], adapter[at + 1u], adapter[at + 2u], adapter[at + 3u]),
                    mat4x4<f32>(adapter[at + 4u], adapter[at + 5u], adapter[at + 6u],
                                adapter[at + 7u]), a);
//#endif
}

// A thread's share of row `row` of U.
fn residual_dot(row: u32, tid: u32) -> f32 {
  var sum = 0.0;
  for (var j = tid; j < NEXT_VECTORS; j += THREADS) {
    sum += dot(adapter[NEXT_U + row * NEXT_VECTORS + j], residual[j]);
  }
  return sum;
}

// What the product's own change adds to row `row` of V.
fn mixed_in(row: u32) -> f32 {
  var sum = 0.0;
//#if FUSED_RANK
  for (var i = 0u; i < bound(FUSED_RANK / 4u); i++) {
    sum += dot(adapter[NEXT_MIXED + row * (FUSED_RANK / 4u) + i], low_vector(i));
  }
//#endif
  return sum;
}
//#endif

//#if FUSED_RANK
// f * (A h).
var<workgroup> low: array<f32, FUSED_RANK>;

fn low_vector(i: u32) -> vec4<f32> {
  return vec4<f32>(low[4u * i], low[4u * i + 1u], low[4u * i + 2u], low[4u * i + 3u]);
}
fn low_factor(r: u32) -> f32 { return adapter[r >> 2u][r & 3u]; }

// B's row at `at` (in vectors) times what the ranks from 4 * first on have.
fn low_product(at: u32, first: u32, fours: u32) -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < bound(fours); i++) {
    sum += dot(adapter[at + i], low_vector(first + i));
  }
  return sum;
}

//#if NORM
// After prepare(), which leaves the site's two numbers.
fn prepare_low(tid: u32) {
  for (var r = tid; r < FUSED_RANK; r += THREADS) {
    low[r] = low_factor(r) * site_gain * (low_sums[LOW_U + r] + site_post * low_sums[r]);
  }
}
//#else
// Sums up the pieces that were handed over; others may read `low` after the next barrier.
fn prepare_low(tid: u32) {
//#if MERGE
  let pieces = HEADS * attention_splits(step.position);
//#else
  let pieces = PIECES;
//#endif
  for (var i = tid; i < FUSED_RANK * GATHERERS; i += THREADS) {
    let r = i % FUSED_RANK;
    var sum = 0.0;
    for (var p = i / FUSED_RANK; p < pieces; p += GATHERERS) {
//#if MERGE
      let at = p * FUSED_RANK + r;
      sum += split_weights[p] * partial[PARTIAL_LOW + (at >> 2u)][at & 3u];
//#else
      sum += low_sums[LOW_PIECES + p * FUSED_RANK + r];
//#endif
    }
    low_stage[i] = sum;
  }
  workgroupBarrier();
  for (var r = tid; r < FUSED_RANK; r += THREADS) {
    var sum = 0.0;
    for (var g = 0u; g < bound(GATHERERS); g++) {
      sum += low_stage[g * FUSED_RANK + r];
    }
    low[r] = low_factor(r) * sum;
  }
}
//#endif
//#endif

//#if LOW_STAGE
var<workgroup> low_stage: array<f32, LOW_STAGE>;
//#endif

//#if HANDED_RANK
fn handed_value(n: u32) -> f32 { return parts[n * PART_STRIDE]; }
fn hand_stage(i: u32, sum: vec4<f32>) {
//#repeat c FOUR
  low_stage[4u * i + ${c}u] = sum[${c}u];
//#end
}
fn hand_staged(i: u32) -> vec4<f32> {
  return vec4<f32>(low_stage[4u * i], low_stage[4u * i + 1u], low_stage[4u * i + 2u],
                   low_stage[4u * i + 3u]);
}
var<private> handing_group: u32;
fn store_handed(four: u32, sum: vec4<f32>) {
  let at = LOW_PIECES + handing_group * HANDED_RANK + 4u * four;
//#repeat c FOUR
  low_sums[at + ${c}u] = sum[${c}u];
//#end
}
//#include hand_low.wgsl
//#endif
