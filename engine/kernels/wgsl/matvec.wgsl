// y = W h for one token. A workgroup of THREADS computes SLOTS * ROWS rows: LANES neighbouring
// threads share a row and take its units in turn; each thread works on ROWS rows at once, so that an
// activation is read from workgroup memory once for all of them. h is staged in tiles of TILE_UNITS;
// with integer products (INTEGER) it is quantised on the way there.
//
// matvec.cpp adds: locate() (which rows this workgroup has), accumulate() (the codecs' inner loop)
// and store() (the epilogue).
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
var<workgroup> byte_tile: array<vec4<u32>, BYTE_VECTORS * TILE_STRIDE>;
// (scale, sum of values) of half h of unit u at h * TILE_STRIDE + u.
var<workgroup> scale_tile: array<vec2<f32>, 2u * TILE_STRIDE>;
//#endif

var<private> segment: u32;
var<private> segment_rows: u32;
var<private> first_row: u32;  // of this workgroup, in its segment
var<private> y_base: u32;     // y index of the segment's row 0
//#repeat r ROWS
var<private> row_${r}: u32;
//#end
// Sums of stream s (gate, up), row r: component (s * ROWS + r) & 3 of vector (s * ROWS + r) >> 2.
//#repeat g SUM_VECTORS
var<private> sums_${g}: vec4<f32>;
//#end

//#if INTEGER
fn absolute_max(v: vec4<f32>) -> f32 {
  let a = abs(v);
  return max(max(a.x, a.y), max(a.z, a.w));
}

// Half i & 1 of unit i >> 1 from its four vectors.
fn stage_half(i: u32, v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>) {
//#if TWO_BYTES
  const LIMIT = 16319.0;  // 128 * 127 + 63
//#else
  const LIMIT = 127.0;
//#endif
  let most = max(max(absolute_max(v0), absolute_max(v1)), max(absolute_max(v2), absolute_max(v3)));
  // A half of zeros (or of numbers too small to divide by) is 0.
  let inverse = select(0.0, LIMIT / most, most > 1e-30);
  let scale = most / LIMIT;
  let q0 = vec4<i32>(round(v0 * inverse));
  let q1 = vec4<i32>(round(v1 * inverse));
  let q2 = vec4<i32>(round(v2 * inverse));
  let q3 = vec4<i32>(round(v3 * inverse));
  let sums = q0 + q1 + q2 + q3;
  let sum = f32(sums.x + sums.y + sums.z + sums.w) * scale;
  let at = (i & 1u) * TILE_STRIDE + (i >> 1u);
  scale_tile[at] = vec2<f32>(scale, sum);
//#if TWO_BYTES
  // In two bytes, high and low: both signed, so that low is -64 to 63.
  let h0 = (q0 + 64) >> vec4<u32>(7u);
  let h1 = (q1 + 64) >> vec4<u32>(7u);
  let h2 = (q2 + 64) >> vec4<u32>(7u);
  let h3 = (q3 + 64) >> vec4<u32>(7u);
  byte_tile[at] = vec4<u32>(pack4xI8(h0), pack4xI8(h1), pack4xI8(h2), pack4xI8(h3));
  byte_tile[2u * TILE_STRIDE + at] =
      vec4<u32>(pack4xI8(q0 - h0 * 128), pack4xI8(q1 - h1 * 128), pack4xI8(q2 - h2 * 128),
                pack4xI8(q3 - h3 * 128));
//#else
  byte_tile[at] = vec4<u32>(pack4xI8(q0), pack4xI8(q1), pack4xI8(q2), pack4xI8(q3));
//#endif
}

fn activations(unit: u32) -> Activations {
  var a: Activations;
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
  return a;
}
//#else
fn stage(unit: u32, k: u32, value: vec4<f32>) { tile[k * TILE_STRIDE + unit] = value; }

fn activations(unit: u32) -> Activations {
  var a: Activations;
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
  return a;
}
//#endif

//#if PLAIN
fn source(j: u32) -> vec4<f32> {
//#if ALIGNED
  return x[j];
//#else
  var v = vec4<f32>(0.0);
  for (var i = 0u; i < 4u; i++) {
    if (4u * j + i < COLS) {
      v[i] = x[4u * j + i];
    }
  }
  return v;
//#endif
}
//#endif

//#if MERGE
//#include step.wgsl
//#include splits.wgsl
// The weight of a split's partial sums: exp(its maximum - the head's) / the head's sum.
var<workgroup> split_weights: array<f32, HEADS * MAX_SPLITS>;

fn weigh_splits(tid: u32) {
  let splits = attention_splits(step.position);
  for (var head = tid; head < HEADS; head += THREADS) {
    var top = -1e30;
    for (var s = 0u; s < splits; s++) {
      top = max(top, stats[s * HEADS + head].x);
    }
    var total = 0.0;
    for (var s = 0u; s < splits; s++) {
      let stat = stats[s * HEADS + head];
      total += stat.y * exp(stat.x - top);
    }
    for (var s = 0u; s < splits; s++) {
      split_weights[head * MAX_SPLITS + s] = exp(stats[s * HEADS + head].x - top) / total;
    }
  }
  workgroupBarrier();
}

fn source(j: u32) -> vec4<f32> {
  let splits = attention_splits(step.position);
  var v = vec4<f32>(0.0);
//#if HEAD_VECTORS
  let head = j / (HEAD_DIM / 4u);
  for (var s = 0u; s < splits; s++) {
    v += partial[s * VECTORS + j] * split_weights[head * MAX_SPLITS + s];
  }
//#else
  for (var i = 0u; i < 4u; i++) {
    let at = 4u * j + i;
    if (at < COLS) {
      for (var s = 0u; s < splits; s++) {
        v[i] += partial[s * COLS + at] * split_weights[(at / HEAD_DIM) * MAX_SPLITS + s];
      }
    }
  }
//#endif
  return v;
}
//#endif

//#if NORM
// Set by measure(), used by source().
var<private> post_factor: f32;
var<private> pre_factor: f32;
var<private> scale: f32;
var<private> writes: bool;

fn rms_factor(square_sum: f32) -> f32 { return 1.0 / sqrt(square_sum / f32(COLS) + EPS); }

// One reduction serves both norms: with e = delta * weights and f the post norm's factor,
// |x_old + f e|^2 = |x_old|^2 + 2 f x_old.e + f^2 |e|^2.
fn measure(tid: u32, merge: u32) {
  scale = 1.0;
//#if RESIDUAL
  scale = site[2u * VECTORS].x;
//#endif
//#if REDUCED
  var parts = vec4<f32>(0.0);  // |delta|^2, |x_old|^2, x_old.e, |e|^2
  for (var j = tid; j < VECTORS; j += THREADS) {
//#if RESIDUAL
    var v = x_old[j];
    let d = delta[j];
//#if HAS_POST
    let e = d * site[j];
    parts += vec4<f32>(dot(d, d), dot(v, v), dot(v, e), dot(e, e));
//#else
    v += d;
    parts.y += dot(v, v);
//#endif
//#else
    let v = x[j];
    parts.y += dot(v, v);
//#endif
  }
  let sums = workgroup_sum(parts, tid, merge);
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
}

fn source(j: u32) -> vec4<f32> {
//#if RESIDUAL
//#if HAS_POST
  var v = (x_old[j] + delta[j] * (post_factor * site[j])) * scale;
//#else
  var v = (x_old[j] + delta[j]) * scale;
//#endif
  if (writes) {
    x_new[j] = v;
  }
//#else
  var v = x[j];
//#endif
//#if HAS_PRE
  v *= pre_factor * site[VECTORS + j];
//#endif
  return v;
}
//#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(num_workgroups) group_count: vec3<u32>,
//#if SUBGROUPS
        @builtin(subgroup_invocation_id) invocation: u32, @builtin(subgroup_size) size: u32,
//#endif
        @builtin(local_invocation_index) tid: u32) {
  let group = group_id.y * group_count.x + group_id.x;
  if (group >= GROUPS) {
    return;
  }
//#if LIGHT
  hidden_zero = group_id.z;
//#endif
  let lane = tid % LANES;
  let slot = tid / LANES;
  locate(group);
//#repeat r ROWS
  row_${r} = min(first_row + ${r}u * SLOTS + slot, segment_rows - 1u);
//#end
//#if SUBGROUPS
  let merge = find_merge_step(tid, invocation, size);
//#else
  let merge = 1u;
//#endif

//#if NORM
  writes = group == 0u;
  measure(tid, merge);
//#endif
//#if MERGE
  weigh_splits(tid);
//#endif
  for (var first = 0u; first < UNITS; first += TILE_UNITS) {
//#if SEVERAL_TILES
    workgroupBarrier();
//#endif
    let count = min(TILE_UNITS, UNITS - first);
//#if INTEGER
    for (var i = tid; i < count * 2u; i += THREADS) {
      let j = first * 8u + 4u * i;
      stage_half(i, source(j), source(j + 1u), source(j + 2u), source(j + 3u));
    }
//#else
    for (var i = tid; i < count * 8u; i += THREADS) {
      let j = first * 8u + i;
//#if WHOLE_UNITS
      stage(i >> 3u, i & 7u, source(j));
//#else
      var v = vec4<f32>(0.0);
      if (j < VECTORS) {
        v = source(j);
      }
      stage(i >> 3u, i & 7u, v);
//#endif
    }
//#endif
    workgroupBarrier();
    accumulate(lane, first);
  }

  // Sums of the LANES threads of a row, into its lane 0.
//#if SUBGROUPS
//#repeat i LOG_LANES
  if ((1u << ${i}u) < merge) {
//#repeat g SUM_VECTORS
    sums_${g} += subgroupShuffleXor(sums_${g}, 1u << ${i}u);
//#end
  }
//#end
  if (merge < LANES) {
    workgroupBarrier();
//#repeat g SUM_VECTORS
    tile[${g}u * THREADS + tid] = sums_${g};
//#end
    workgroupBarrier();
    if (lane == 0u) {
      for (var i = merge; i < LANES; i += merge) {
//#repeat g SUM_VECTORS
        sums_${g} += tile[${g}u * THREADS + tid + i];
//#end
      }
    }
  }
//#else
  // The first turn puts the sums into the tile, the others halve their number. One barrier in the
  // text: software GPUs compile each anew, and slowly.
  for (var half = LANES; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (half < LANES && lane < half) {
//#repeat g SUM_VECTORS
      sums_${g} += tile[${g}u * THREADS + tid + half];
//#end
    }
    if (half == LANES || lane < half) {
//#repeat g SUM_VECTORS
      tile[${g}u * THREADS + tid] = sums_${g};
//#end
    }
  }
//#endif
  if (lane == 0u) {
    store(slot);
  }
}
