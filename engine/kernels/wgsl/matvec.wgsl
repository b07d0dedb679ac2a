// y = W h for one token. A workgroup of THREADS computes SLOTS * ROWS rows: LANES neighbouring
// threads share a row and take its units in turn; each thread works on ROWS rows at once, so that an
// activation is read from workgroup memory once for all of them. h is staged in tiles of TILE_UNITS;
// with integer products (INTEGER) it is quantised on the way there. Where few workgroups run (AHEAD),
// the weights of a thread's first turn are fetched before h is made, those of the next while it works
// on one, so that the memory is not idle; many workgroups hide each other's waits better than the
// registers that this takes.
//
// Between two products the vector may pass as signed bytes: the first quantises its output
// (QUANTIZES) 16 rows at a time, and the second (QUANTIZED) multiplies it as it comes, with no tile
// and no barrier before its first product. Layout: matvec.h.
//
// Of several tokens (TOKENS) each has workgroups of its own, next to those of the others that read the
// same weights; NAME_row is where its row of binding NAME begins. In a mixture of experts (EXPERTS)
// these are its experts', each of which multiplies other rows of the weights.
//
// With a low-rank change (FUSED, fused_change.wgsl) the first workgroups compute V and U of the next
// product, a row each; the change of the product's own rows is added to the lanes' sums.
//
// matvec.cpp adds: locate() (which rows this workgroup has), fetch() and multiply() (the codecs) and
// finished() (the epilogue of a row).
//#include reduce.wgsl
const SLOTS: u32 = THREADS / LANES;
const VECTORS: u32 = (COLS + 3u) / 4u;

// Vector k of unit u at k * TILE_STRIDE + u: neighbouring threads read neighbouring vectors. The
// stride is odd, so that staging writes do not collide in a bank. Reductions use `tile` too.
var<workgroup> tile: array<vec4<f32>, TILE_SIZE>;
//#if INTEGER
//#if TWO_BYTES
const BYTE_VECTORS: u32 = 4u;  // high bytes of half 0, of half 1, low bytes of half 0, of half 1
//#else
const BYTE_VECTORS: u32 = 2u;
//#endif
//#if !QUANTIZED
var<workgroup> byte_tile: array<vec4<u32>, BYTE_VECTORS * TILE_STRIDE>;
// (scale, sum of values) of half h of unit u at h * TILE_STRIDE + u.
var<workgroup> scale_tile: array<vec2<f32>, 2u * TILE_STRIDE>;
//#endif
//#endif
// Lane l's part of output n (stream, then row of the workgroup) at n * PART_STRIDE + l. Odd, too.
const PART_STRIDE: u32 = LANES + 1u;
var<workgroup> parts: array<f32, OUTPUTS * SLOTS * PART_STRIDE>;

//#include matmul_place.wgsl
//#repeat r ROWS
var<private> row_${r}: u32;
//#end
// Output i of a thread: stream (gate, up) i / ROWS, row i % ROWS.
//#repeat i OUTPUTS
var<private> sum_${i}: f32;
var<private> ahead_${i}: Fetched;
//#end

//#if INTEGER
//#include activation_bytes.wgsl
//#endif

//#if QUANTIZED
fn activations(unit: u32) -> Activations {
  var a: Activations;
  let at = x_row + unit;
  a.high_0 = x[at];
  a.high_1 = x[UNITS + at];
//#if TWO_BYTES
  a.low_0 = x[2u * UNITS + at];
  a.low_1 = x[3u * UNITS + at];
//#endif
  let scales = bitcast<vec4<f32>>(x[BYTE_VECTORS * UNITS + at]);
  a.scale = scales.xz;
  a.low_sum = scales.y;
  a.high_sum = scales.w;
  return a;
}
//#else
// Stages half `half` (16 values) of unit `unit` of the tile.
fn stage(unit: u32, half: u32, v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>) {
//#if INTEGER
  let most = largest(v0, v1, v2, v3);
  let inverse = inverse_scale(most);
  let scale = most / LIMIT;
  let q0 = rounded(v0, inverse);
  let q1 = rounded(v1, inverse);
  let q2 = rounded(v2, inverse);
  let q3 = rounded(v3, inverse);
  let sums = q0 + q1 + q2 + q3;
  let at = half * TILE_STRIDE + unit;
  scale_tile[at] = vec2<f32>(scale, f32(sums.x + sums.y + sums.z + sums.w) * scale);
  byte_tile[at] = vec4<u32>(high_bytes(q0), high_bytes(q1), high_bytes(q2), high_bytes(q3));
//#if TWO_BYTES
  byte_tile[2u * TILE_STRIDE + at] =
      vec4<u32>(low_bytes(q0), low_bytes(q1), low_bytes(q2), low_bytes(q3));
//#endif
//#else
  let at = 4u * half * TILE_STRIDE + unit;
  tile[at] = v0;
  tile[at + TILE_STRIDE] = v1;
  tile[at + 2u * TILE_STRIDE] = v2;
  tile[at + 3u * TILE_STRIDE] = v3;
//#endif
}

fn activations(unit: u32) -> Activations {
  var a: Activations;
//#if INTEGER
  a.high_0 = byte_tile[unit];
  a.high_1 = byte_tile[TILE_STRIDE + unit];
//#if TWO_BYTES
  a.low_0 = byte_tile[2u * TILE_STRIDE + unit];
  a.low_1 = byte_tile[3u * TILE_STRIDE + unit];
//#endif
  let first = scale_tile[unit];
  let second = scale_tile[TILE_STRIDE + unit];
  a.scale = vec2<f32>(first.x, second.x);
  a.low_sum = first.y;
  a.high_sum = second.y;
//#else
  a.v0 = tile[unit];
  a.v1 = tile[TILE_STRIDE + unit];
  a.v2 = tile[2u * TILE_STRIDE + unit];
  a.v3 = tile[3u * TILE_STRIDE + unit];
  a.v4 = tile[4u * TILE_STRIDE + unit];
  a.v5 = tile[5u * TILE_STRIDE + unit];
  a.v6 = tile[6u * TILE_STRIDE + unit];
  a.v7 = tile[7u * TILE_STRIDE + unit];
  a.low_sum = dot((a.v0 + a.v1) + (a.v2 + a.v3), vec4<f32>(1.0));
  a.high_sum = dot((a.v4 + a.v5) + (a.v6 + a.v7), vec4<f32>(1.0));
//#endif
  return a;
}

//#endif

// Whether vector j is one of the input's.
//#if WHOLE_HALVES
fn inside(j: u32) -> bool { return true; }
//#else
fn inside(j: u32) -> bool { return j < VECTORS; }
//#endif

// source(j): vector j of the input, zeros past the end.
//#if PLAIN
fn source(j: u32) -> vec4<f32> {
  var v = vec4<f32>(0.0);
//#if ALIGNED
  if (inside(j)) {
    v = x[x_row + j];
  }
//#else
  for (var i = 0u; i < 4u; i++) {
    if (4u * j + i < COLS) {
      v[i] = x[x_row + 4u * j + i];
    }
  }
//#endif
  return v;
}
//#endif

//#if MERGE
//#include step.wgsl
//#include splits.wgsl
// The weight of a split's partial sums: exp(its maximum - the head's) / the head's sum.
var<workgroup> split_weights: array<f32, HEADS * MAX_SPLITS>;

fn weigh_splits(tid: u32) {
  let splits = attention_splits(token_position());
  for (var i = tid; i < HEADS * splits; i += THREADS) {
    let head = i % HEADS;
    var top = -1e30;
    for (var s = 0u; s < splits; s++) {
      top = max(top, stats[stats_row + s * HEADS + head].x);
    }
    var total = 0.0;
    for (var s = 0u; s < splits; s++) {
      let stat = stats[stats_row + s * HEADS + head];
      total += stat.y * exp(stat.x - top);
    }
    split_weights[i] = exp(stats[stats_row + i].x - top) / total;
  }
  workgroupBarrier();
}

fn source(j: u32) -> vec4<f32> {
  let splits = attention_splits(token_position());
  var v = vec4<f32>(0.0);
//#if HEAD_VECTORS
  if (inside(j)) {
    let head = j / (HEAD_DIM / 4u);
    for (var s = 0u; s < splits; s++) {
      v += partial[partial_row + s * VECTORS + j] * split_weights[s * HEADS + head];
    }
  }
//#else
  for (var i = 0u; i < 4u; i++) {
    let at = 4u * j + i;
    if (at < COLS) {
      for (var s = 0u; s < splits; s++) {
        v[i] += partial[partial_row + s * COLS + at] * split_weights[s * HEADS + at / HEAD_DIM];
      }
    }
  }
//#endif
  return v;
}
//#endif

//#if NORM
// Half tid + n * THREADS of h, held in registers from the first read on: once `delta` and the post
// norm's weights are in it, and in the end h itself.
//#repeat n PIECES
//#repeat c FOUR
var<private> x_${n}_${c}: vec4<f32>;
var<private> e_${n}_${c}: vec4<f32>;
//#if HAS_PRE
var<private> w_${n}_${c}: vec4<f32>;
//#endif
//#end
//#end

//#if FUSED_RANK
var<private> site_post: f32;
var<private> site_gain: f32;
//#endif

fn rms_factor(square_sum: f32) -> f32 { return 1.0 / sqrt(square_sum / f32(COLS) + EPS); }

fn prepare(tid: u32, merge: u32, writes: bool) {
  // One reduction serves both norms: with e = delta * weights and f the post norm's factor,
  // |x_old + f e|^2 = |x_old|^2 + 2 f x_old.e + f^2 |e|^2.
  var parts_of = vec4<f32>(0.0);  // |delta|^2, |x_old|^2, x_old.e, |e|^2
//#repeat n PIECES
//#repeat c FOUR
  {
    let j = 4u * (tid + ${n}u * THREADS) + ${c}u;
    if (j < VECTORS) {
//#if HAS_PRE
      w_${n}_${c} = site[VECTORS + j];
//#endif
//#if RESIDUAL
      x_${n}_${c} = x_old[x_old_row + j];
      let d = delta[delta_row + j];
//#if HAS_POST
      let e = d * site[j];
      e_${n}_${c} = e;
      parts_of += vec4<f32>(dot(d, d), dot(x_${n}_${c}, x_${n}_${c}), dot(x_${n}_${c}, e), dot(e, e));
//#else
      x_${n}_${c} += d;
      parts_of.y += dot(x_${n}_${c}, x_${n}_${c});
//#endif
//#else
      x_${n}_${c} = x[x_row + j];
      parts_of.y += dot(x_${n}_${c}, x_${n}_${c});
//#endif
    }
  }
//#end
//#end
  var scale = 1.0;
//#if RESIDUAL
  scale = site[2u * VECTORS].x;
//#endif
  var post_factor = 1.0;
  var pre_factor = 1.0;
//#if REDUCED
  let sums = workgroup_sum(parts_of, tid, merge);
  var squares = sums.y;
//#if HAS_POST
  post_factor = rms_factor(sums.x);
  squares += post_factor * (2.0 * sums.z + post_factor * sums.w);
//#endif
//#if HAS_PRE
  // Cancellation may leave a tiny negative number.
  pre_factor = rms_factor(max(squares, 0.0) * scale * scale);
//#endif
//#endif
//#if FUSED_RANK
  site_post = post_factor;
  site_gain = pre_factor * scale;
//#endif
//#repeat n PIECES
//#repeat c FOUR
  {
    let j = 4u * (tid + ${n}u * THREADS) + ${c}u;
    if (j < VECTORS) {
//#if RESIDUAL
//#if HAS_POST
      x_${n}_${c} += e_${n}_${c} * post_factor;
//#endif
      x_${n}_${c} *= scale;
      if (writes) {
        x_new[x_new_row + j] = x_${n}_${c};
      }
//#endif
//#if HAS_PRE
      x_${n}_${c} *= pre_factor * w_${n}_${c};
//#endif
    }
  }
//#end
//#end
}
//#endif

//#if FUSED
//#include fused_change.wgsl
//#endif

//#if QUANTIZES
fn row_vector(n: u32) -> vec4<f32> {
  return vec4<f32>(parts[n * PART_STRIDE], parts[(n + 1u) * PART_STRIDE],
                   parts[(n + 2u) * PART_STRIDE], parts[(n + 3u) * PART_STRIDE]);
}
fn store_word(at: u32, word: u32) { y[y_row + at] = word; }
//#include hand_over.wgsl
//#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(num_workgroups) group_count: vec3<u32>,
//#if SUBGROUPS
        @builtin(subgroup_invocation_id) invocation: u32, @builtin(subgroup_size) size: u32,
//#endif
        @builtin(local_invocation_index) tid: u32) {
//#if TOKENS
  let group = group_id.z * group_count.y + group_id.y;
//#else
  let group = group_id.y * group_count.x + group_id.x;
//#endif
  if (group >= GROUPS) {
    return;
  }
//#if LIGHT
//#if TOKENS
  hidden_zero = group_id.x / group_count.x;
//#else
  hidden_zero = group_id.z;
//#endif
//#endif
//#if TOKENS
  find_rows(group_id.x);
//#endif
//#if EXPERTS
  let expert = routes[group_id.x].x - FIRST_EXPERT;
  if (expert >= EXPERT_COUNT) {
    return;
  }
//#endif
//#if NEXT_RANK
  if (group < 2u * NEXT_RANK) {
//#if SUBGROUPS
    next_main(group, tid, find_merge_step(tid, invocation, size));
//#else
    next_main(group, tid, 1u);
//#endif
    return;
  }
//#endif
  let lane = tid % LANES;
  let slot = tid / LANES;
  locate(group);
//#repeat r ROWS
  row_${r} = min(first_row + ${r}u * SLOTS + slot, segment_rows - 1u);
//#if EXPERTS
  row_${r} += expert * EXPERT_STRIDE;
//#endif
//#end
//#if AHEAD
  fetch(min(lane, UNITS - 1u));
//#endif
//#if FUSED_RANK
//#if CHANGE_AHEAD
  fetch_change(lane);
//#endif
//#if QUANTIZED
  var now = activations(min(lane, UNITS - 1u));
//#endif
  fetch_low(tid);
//#endif
//#if HANDED_RANK
  fetch_handed(tid, first_row, min(HANDED_ROWS, segment_rows - first_row));
//#endif
//#if SUBGROUPS
  let merge = find_merge_step(tid, invocation, size);
//#else
  let merge = 1u;
//#endif
//#if NORM
  prepare(tid, merge, group == 0u);
//#endif
//#if MERGE
  weigh_splits(tid);
//#endif
//#if FUSED_RANK
//#if NORM
  finish_low(tid);
//#else
  gather_low(tid);
//#if QUANTIZED
  workgroupBarrier();
  add_change(lane);
//#endif
//#endif
//#endif
//#if QUANTIZED
  // The next turn's are on their way while one is multiplied, as the weights are.
//#if !FUSED_RANK
  var now = activations(min(lane, UNITS - 1u));
//#endif
  for (var u = lane; u < UNITS; u += LANES) {
    let following = min(u + LANES, UNITS - 1u);
    let next = activations(following);
//#if AHEAD
    multiply(now, u, following);
//#else
    fetch(u);
    multiply(now, u, u);
//#endif
    now = next;
  }
//#else
  for (var first = 0u; first < UNITS; first += TILE_UNITS) {
//#if SEVERAL_TILES
    workgroupBarrier();
//#endif
    let count = min(TILE_UNITS, UNITS - first);
//#if NORM
//#repeat n PIECES
    {
      let half = tid + ${n}u * THREADS - 2u * first;
      // Halves before the tile wrap around to large numbers.
      if (half < 2u * count) {
        stage(half >> 1u, half & 1u, x_${n}_0, x_${n}_1, x_${n}_2, x_${n}_3);
      }
    }
//#end
//#else
    for (var half = tid; half < 2u * count; half += THREADS) {
      let j = 8u * first + 4u * half;
//#if MERGED_HALVES
      let head = j / (HEAD_DIM / 4u);
      let splits = attention_splits(token_position());
      var v0 = vec4<f32>();
      var v1 = vec4<f32>();
      var v2 = vec4<f32>();
      var v3 = vec4<f32>();
      for (var s = 0u; s < splits; s++) {
        let weight = split_weights[s * HEADS + head];
        let at = partial_row + s * VECTORS + j;
        v0 += partial[at] * weight;
        v1 += partial[at + 1u] * weight;
        v2 += partial[at + 2u] * weight;
        v3 += partial[at + 3u] * weight;
      }
      stage(half >> 1u, half & 1u, v0, v1, v2, v3);
//#else
//#if LIGHT
      // Software GPUs compile source() once.
      var v: array<vec4<f32>, 4>;
      for (var c = 0u; c < bound(4u); c++) {
        v[c] = source(j + c);
      }
      stage(half >> 1u, half & 1u, v[0], v[1], v[2], v[3]);
//#else
      stage(half >> 1u, half & 1u, source(j), source(j + 1u), source(j + 2u), source(j + 3u));
//#endif
//#endif
    }
//#endif
    workgroupBarrier();
//#if FUSED_RANK
    if (first == 0u) {
      add_change(lane);
    }
//#endif
    for (var u = lane; u < count; u += LANES) {
//#if AHEAD
      multiply(activations(u), first + u, min(first + u + LANES, UNITS - 1u));
//#else
      fetch(first + u);
      multiply(activations(u), first + u, first + u);
//#endif
    }
  }
//#endif

  // The lanes of a row: by shuffles as far as they reach, the rest through workgroup memory.
//#if SUBGROUPS
//#repeat i LOG_LANES
  if ((1u << ${i}u) < merge) {
//#repeat o OUTPUTS
    sum_${o} += subgroupShuffleXor(sum_${o}, 1u << ${i}u);
//#end
  }
//#end
//#endif
  if (merge == 1u || (lane & (merge - 1u)) == 0u) {
//#repeat o OUTPUTS
    parts[(${o}u * SLOTS + slot) * PART_STRIDE + lane] = sum_${o};
//#end
  }
  workgroupBarrier();
  for (var n = tid; n < ROWS * SLOTS; n += THREADS) {
    let row = first_row + n;
    if (row < segment_rows) {
      var total = 0.0;
      for (var i = 0u; i < bound(LANES); i += merge) {
        total += parts[n * PART_STRIDE + i];
      }
//#if GEGLU
      var up = 0.0;
      for (var i = 0u; i < bound(LANES); i += merge) {
        up += parts[(ROWS * SLOTS + n) * PART_STRIDE + i];
      }
      let value = gelu_tanh(total) * up;
//#if KEEPS_VALUES
      // Only this thread reads the row's parts.
      parts[n * PART_STRIDE] = value;
//#endif
//#if !QUANTIZES
      y[y_row + y_base + row] = value;
//#endif
//#else
      y[y_row + y_base + row] = finished(total, row);
//#endif
    }
  }
//#if KEEPS_VALUES
  workgroupBarrier();
//#endif
//#if HANDED_RANK
  handing_group = group;
  hand_low(tid, first_row, min(HANDED_ROWS, segment_rows - first_row));
//#endif
//#if QUANTIZES
  for (var n = 4u * tid; n < ROWS * SLOTS; n += 4u * THREADS) {
    // Groups begin at multiples of 16 rows, and segments end there.
    if (first_row + n < segment_rows) {
      quantize_rows(n, (y_base + first_row + n) / 16u);
    }
  }
//#endif
}
