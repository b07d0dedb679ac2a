// The low-rank change that a matvec makes by itself (fused_change.h). What is needed of its buffer
// is asked for before the product begins: fetch_low() and fetch_change(), then, where A h comes in
// pieces, gather_low() and a barrier; then finish_low() and a barrier, then fused_change(). matvec.cpp adds
// change_at(part, row): where B's row lies in `adapter`, change_first(part): the first of its ranks,
// and change_eights(part): how many, all in eights.
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
// A h.
var<workgroup> low: array<f32, FUSED_RANK>;

fn low_vector(i: u32) -> vec4<f32> {
  return vec4<f32>(low[4u * i], low[4u * i + 1u], low[4u * i + 2u], low[4u * i + 3u]);
}
// Ranks 8 i to 8 i + 7 of a row of B.
fn change_part(e: Eight, i: u32) -> f32 {
  let b = eight_values(e);
  return dot(b[0u], low_vector(2u * i)) + dot(b[1u], low_vector(2u * i + 1u));
}

//#if NEXT_RANK
fn mixed_value(row: u32, r: u32) -> f32 {
  return adapter_value(8u * NEXT_MIXED + row * FUSED_RANK + r);
}
// What the product's own change adds to row `row` of V: a thread's share. own: its first value.
fn mixed_in(own: f32, row: u32, tid: u32) -> f32 {
  var sum = 0.0;
  if (tid < FUSED_RANK) {
    sum = own * low[tid];
  }
  for (var r = tid + THREADS; r < FUSED_RANK; r += THREADS) {
    sum += mixed_value(row, r) * low[r];
  }
  return sum;
}
//#endif

// Rank `tid`, or the piece of it that a thread begins with.
//#if NORM
var<private> own_v: f32;
var<private> own_u: f32;
fn low_input(i: u32) -> f32 { return delta[delta_row + ((COLS + i) >> 2u)][i & 3u]; }
//#else
//#repeat g GATHERED
var<private> piece_${g}: f32;
//#end
// Pieces of A h: of attention's workgroups, or of gate/up's.
fn low_piece(p: u32, r: u32) -> f32 {
  let i = p * FUSED_RANK + r;
//#if MERGE
  return partial[partial_row + PARTIAL_LOW + (i >> 2u)][i & 3u];
//#else
//#if QUANTIZED
  return bitcast<f32>(x[x_row + ((COLS + i) >> 2u)][i & 3u]);
//#else
  return x[x_row + ((COLS + i) >> 2u)][i & 3u];
//#endif
//#endif
}
fn low_pieces() -> u32 {
//#if MERGE
  return HEADS * attention_splits(token_position());
//#else
  return PIECES;
//#endif
}
//#endif

//#repeat k CHANGE_AHEAD
//#repeat p STREAMS
var<private> change_${p}_${k}: Eight;
//#end
//#end

fn fetch_low(tid: u32) {
//#if NORM
  own_v = low_input(min(tid, FUSED_RANK - 1u));
  own_u = low_input(LOW_U + min(tid, FUSED_RANK - 1u));
//#else
//#repeat g GATHERED
  piece_${g} = low_piece(min(tid / FUSED_RANK + ${g}u * GATHERERS, low_pieces() - 1u), tid % FUSED_RANK);
//#end
//#endif
}

fn fetch_change(tid: u32) {
//#if CHANGE_AHEAD
  // Threads that finish no row read what the last one does: no memory is read for them, and a branch
  // around this would hold up all.
  let row = min(first_row + min(tid, ROWS * SLOTS - 1u), segment_rows - 1u);
//#repeat k CHANGE_AHEAD
//#if GEGLU
  change_0_${k} = adapter_eight(change_at(0u, row) + ${k}u);
  change_1_${k} = adapter_eight(change_at(1u, row) + ${k}u);
//#else
  change_0_${k} = adapter_eight(change_at(segment, row) + ${k}u);
//#endif
//#end
//#endif
}

//#if NORM
// After prepare(), which leaves the site's two numbers.
fn finish_low(tid: u32) {
  if (tid < FUSED_RANK) {
    low[tid] = site_gain * (own_u + site_post * own_v);
  }
  for (var r = tid + THREADS; r < FUSED_RANK; r += THREADS) {
    low[r] = site_gain * (low_input(LOW_U + r) + site_post * low_input(r));
  }
}
//#else
// A thread's share of the pieces that were handed over.
fn gather_low(tid: u32) {
  let pieces = low_pieces();
  for (var i = tid; i < FUSED_RANK * GATHERERS; i += THREADS) {
    let r = i % FUSED_RANK;
    var p = i / FUSED_RANK;
    var sum = 0.0;
//#repeat g GATHERED
    if (i == tid && p < pieces) {
//#if MERGE
      sum += split_weights[p] * piece_${g};
//#else
      sum += piece_${g};
//#endif
      p += GATHERERS;
    }
//#end
    for (; p < pieces; p += GATHERERS) {
//#if MERGE
      sum += split_weights[p] * low_piece(p, r);
//#else
      sum += low_piece(p, r);
//#endif
    }
    low_stage[i] = sum;
  }
}
fn finish_low(tid: u32) {
  for (var r = tid; r < FUSED_RANK; r += THREADS) {
    var sum = 0.0;
    for (var g = 0u; g < bound(GATHERERS); g++) {
      sum += low_stage[g * FUSED_RANK + r];
    }
    low[r] = sum;
  }
}
//#endif

// What the change adds to the row of `part` that the thread finishes.
fn fused_change(part: u32, row: u32) -> f32 {
  var sum = 0.0;
  let first = change_first(part);
//#repeat k CHANGE_AHEAD
//#if GEGLU
  if (part == 1u) {
    sum += change_part(change_1_${k}, first + ${k}u);
  } else {
    sum += change_part(change_0_${k}, first + ${k}u);
  }
//#else
  sum += change_part(change_0_${k}, first + ${k}u);
//#endif
//#end
  let at = change_at(part, row);
  for (var i = CHANGES_AHEAD; i < change_eights(part); i++) {
    sum += change_part(adapter_eight(at + i), first + i);
  }
  return sum;
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
  let own = mixed_value(group, min(tid, FUSED_RANK - 1u));
//#endif
//#if MERGE
  weigh_splits(tid);
//#endif
  var sum = input_dot(group, tid);
//#if FUSED_RANK
  gather_low(tid);
  workgroupBarrier();
  finish_low(tid);
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
