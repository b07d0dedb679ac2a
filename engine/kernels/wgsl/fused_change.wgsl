// The low-rank change that a matvec makes by itself (fused_change.h). What is needed of its buffer
// is asked for before the product begins, by fetch_low() and fetch_change(); then A h is left in
// workgroup memory, by finish_low() or, where it comes in pieces, by gather_low(); and after a barrier
// add_change(), which matvec.cpp writes, adds what the change gives to the lanes' sums: those of a row
// share its ranks, so that nothing is left to do once the product is summed.
//#include adapter.wgsl
//#if NEXT_RANK
//#if QUANTIZED
//#if TWO_BYTES
fn whole(high: u32, rest: u32) -> vec4<f32> {
  return 128.0 * signed_bytes(high) + signed_bytes(rest);
}
fn next_half(at: u32, high: vec4<u32>, rest: vec4<u32>) -> f32 {
  let a = eight_values(adapter_eight(at));
  let b = eight_values(adapter_eight(at + 1u));
  return dot(a[0u], whole(high.x, rest.x)) + dot(a[1u], whole(high.y, rest.y)) +
         dot(b[0u], whole(high.z, rest.z)) + dot(b[1u], whole(high.w, rest.w));
}
//#else
fn next_half(at: u32, high: vec4<u32>) -> f32 {
  let a = eight_values(adapter_eight(at));
  let b = eight_values(adapter_eight(at + 1u));
  return dot(a[0u], signed_bytes(high.x)) + dot(a[1u], signed_bytes(high.y)) +
         dot(b[0u], signed_bytes(high.z)) + dot(b[1u], signed_bytes(high.w));
}
//#endif
//#endif

// A thread's share of row `row` of V's matrix by the input.
fn input_dot(row: u32, tid: u32) -> f32 {
  var sum = 0.0;
//#if QUANTIZED
  for (var u = tid; u < UNITS; u += THREADS) {
    let a = activations(u);
    let at = NEXT_V + 4u * (row * UNITS + u);
//#if TWO_BYTES
    sum += a.scale.x * next_half(at, a.high_0, a.low_0) +
           a.scale.y * next_half(at + 2u, a.high_1, a.low_1);
//#else
    sum += a.scale.x * next_half(at, a.high_0) + a.scale.y * next_half(at + 2u, a.high_1);
//#endif
  }
//#else
  for (var j = tid; j < COLS / 8u; j += THREADS) {
    let e = eight_values(adapter_eight(NEXT_V + row * (COLS / 8u) + j));
    sum += dot(e[0u], source(2u * j)) + dot(e[1u], source(2u * j + 1u));
  }
//#endif
  return sum;
}

// Eight values j of row `row` of U.
fn residual_part(row: u32, j: u32) -> f32 {
  let e = eight_values(adapter_eight(NEXT_U + row * NEXT_EIGHTS + j));
  return dot(e[0u], residual[residual_row + 2u * j]) + dot(e[1u], residual[residual_row + 2u * j + 1u]);
}
// A thread's share of the row.
fn residual_dot(row: u32, tid: u32) -> f32 {
  var sum = 0.0;
  var j = tid;
//#repeat t NEXT_TURNS
  if (j < NEXT_EIGHTS) {
    sum += residual_part(row, j);
    j += THREADS;
  }
//#end
  for (; j < NEXT_EIGHTS; j += THREADS) {
    sum += residual_part(row, j);
  }
  return sum;
}
//#endif

//#if FUSED_RANK
const QUADS: u32 = FUSED_RANK / 4u;
//#if NEXT_RANK
fn mixed_value(row: u32, r: u32) -> f32 {
  return adapter_value(8u * NEXT_MIXED + row * FUSED_RANK + r);
}
// What the product's own change adds to row `row` of V: a thread's share, after gather_low() and a
// barrier. own: its first value.
fn mixed_in(own: f32, row: u32, tid: u32) -> f32 {
  var sum = 0.0;
  if (tid < FUSED_RANK * GATHER_GROUPS) {
    sum = own * gather_sums[tid >> 2u][tid & 3u];
  }
  for (var i = tid + THREADS; i < FUSED_RANK * GATHER_GROUPS; i += THREADS) {
    sum += mixed_value(row, i % FUSED_RANK) * gather_sums[i >> 2u][i & 3u];
  }
  return sum;
}
//#endif

//#if NORM
// A h.
var<workgroup> low: array<vec4<f32>, QUADS>;
// Ranks 4 tid to 4 tid + 3.
var<private> own_v: vec4<f32>;
var<private> own_u: vec4<f32>;
//#else
// Where A h comes in pieces a thread has one quad of their ranks, and of the pieces every
// GATHERERS-th; those threads' sums are summed in groups of up to eight, and the groups' by whoever reads them.
//#if GATHERS_TWICE
var<workgroup> gather_stage: array<vec4<f32>, QUADS * GATHERERS>;
//#endif
var<workgroup> gather_sums: array<vec4<f32>, QUADS * GATHER_GROUPS>;

// Ranks 4 q to 4 q + 3 of a piece: of one of attention's workgroups, or of gate/up's.
fn low_piece(p: u32, q: u32) -> vec4<f32> {
  let i = p * QUADS + q;
//#if MERGE
  return partial[partial_row + PARTIAL_LOW + i];
//#else
//#if QUANTIZED
  return bitcast<vec4<f32>>(x[x_row + COLS / 4u + i]);
//#else
  return x[x_row + COLS / 4u + i];
//#endif
//#endif
}
// The first of a thread's pieces.
fn first_piece(tid: u32) -> u32 { return min(tid / QUADS, GATHERERS - 1u); }

//#if MERGE
// They are weighed once their splits' weights are known.
//#repeat g GATHERED
var<private> piece_${g}: vec4<f32>;
//#end
//#else
var<private> gathered: vec4<f32>;
//#endif
//#endif

fn fetch_low(tid: u32) {
//#if NORM
  let q = min(tid, QUADS - 1u);
  own_v = delta[delta_row + COLS / 4u + q];
  own_u = delta[delta_row + (COLS + LOW_U) / 4u + q];
//#else
  let q = tid % QUADS;
  let begin = first_piece(tid);
//#if MERGE
  let last = HEADS * attention_splits(token_position()) - 1u;
//#repeat g GATHERED
  piece_${g} = low_piece(min(begin + ${g}u * GATHERERS, last), q);
//#end
//#else
//#repeat g GATHERED
  let piece_${g} = low_piece(begin + ${g}u * GATHERERS, q);
//#end
  let then = begin + GATHERED * GATHERERS;
//#if GATHERS_LAST
  let last_piece = low_piece(min(then, PIECES - 1u), q);
//#endif
  var sum = vec4<f32>();
//#repeat g GATHERED
  sum += piece_${g};
//#end
//#if GATHERS_LAST
  sum += select(vec4<f32>(), last_piece, then < PIECES);
//#endif
//#if GATHERS_MORE
  for (var p = then; p < PIECES; p += GATHERERS) {
    sum += low_piece(p, q);
  }
//#endif
  gathered = sum;
//#endif
//#endif
}

//#if NORM
// After prepare(), which leaves the site's two numbers.
fn finish_low(tid: u32) {
  if (tid < QUADS) {
    low[tid] = site_gain * (own_u + site_post * own_v);
  }
}
//#else
// In uniform control flow.
fn gather_low(tid: u32) {
//#if MERGE
  let q = tid % QUADS;
  let pieces = HEADS * attention_splits(token_position());
  var p = first_piece(tid);
  var gathered = vec4<f32>();
//#repeat g GATHERED
  if (p < pieces) {
    gathered += split_weights[p] * piece_${g};
  }
  p += GATHERERS;
//#end
  for (; p < pieces; p += GATHERERS) {
    gathered += split_weights[p] * low_piece(p, q);
  }
//#endif
  if (tid < QUADS * GATHERERS) {
//#if GATHERS_TWICE
    gather_stage[tid] = gathered;
  }
  workgroupBarrier();
  if (tid < QUADS * GATHER_GROUPS) {
    var sum = vec4<f32>();
    for (var i = tid; i < QUADS * GATHERERS; i += QUADS * GATHER_GROUPS) {
      sum += gather_stage[i];
    }
    gather_sums[tid] = sum;
//#else
    gather_sums[tid] = gathered;
//#endif
  }
}
//#endif

// Of pair j (adapter.wgsl) of A h, share `share` of LOW_SHARES.
fn low_pair(j: u32, share: u32) -> vec2<f32> {
  let q = 2u * (j >> 2u);
  let k = j & 3u;
//#if NORM
  return vec2<f32>(low[q][k], low[q + 1u][k]);
//#else
  var sum = vec2<f32>();
  for (var g = share; g < bound(GATHER_GROUPS); g += LOW_SHARES) {
    sum += vec2<f32>(gather_sums[g * QUADS + q][k], gather_sums[g * QUADS + q + 1u][k]);
  }
  return sum;
//#endif
}
//#endif

//#if LOW_STAGE
var<workgroup> low_stage: array<f32, LOW_STAGE>;
//#endif

//#if NEXT_RANK
// A row of V of the next product (the first workgroups) or of U (those after them).
fn next_main(group: u32, tid: u32, merge: u32) {
  if (group >= NEXT_RANK) {
    let row = group - NEXT_RANK;
    let total = workgroup_sum(vec4<f32>(residual_dot(row, tid)), tid, merge);
    if (tid == 0u) {
      y[y_row + NEXT_BEHIND + LOW_U + row] = total.x;
    }
    return;
  }
//#if FUSED_RANK
  fetch_low(tid);
  let own = mixed_value(group, tid % FUSED_RANK);
//#endif
//#if MERGE
  weigh_splits(tid);
//#endif
  var sum = input_dot(group, tid);
//#if FUSED_RANK
  gather_low(tid);
  workgroupBarrier();
  sum += mixed_in(own, group, tid);
//#endif
  let total = workgroup_sum(vec4<f32>(sum), tid, merge);
  if (tid == 0u) {
    y[y_row + NEXT_BEHIND + group] = total.x;
  }
}
//#endif

//#if HANDED_RANK
fn handed_value(n: u32) -> f32 { return parts[n * PART_STRIDE]; }
fn hand_stage(i: u32, sum: mat2x4<f32>) {
//#repeat c FOUR
  low_stage[8u * i + ${c}u] = sum[0u][${c}u];
  low_stage[8u * i + 4u + ${c}u] = sum[1u][${c}u];
//#end
}
fn hand_staged(i: u32) -> f32 { return low_stage[i]; }
var<private> handing_group: u32;
// Behind the output.
fn store_handed(r: u32, sum: f32) {
//#if QUANTIZES
  y[y_row + HANDED_BEHIND + handing_group * HANDED_RANK + r] = bitcast<u32>(sum);
//#else
  y[y_row + HANDED_BEHIND + handing_group * HANDED_RANK + r] = sum;
//#endif
}
//#include hand_low.wgsl
//#endif
