// One token's attention over the cache, one workgroup a (head, split): x, y. Of several tokens
// (TOKENS) each has a z. Keys come in tiles of one a thread: LANES neighbouring threads share the
// dot product of a key, so that a row is read in whole lines; then the threads turn to the V rows,
// UNITS of them side by side on one row, and keep their sums in registers until the end. Softmax is
// streamed: maximum `top`, sum `mass`.
const TILE: u32 = THREADS;
const KEYS_AT_ONCE: u32 = THREADS / LANES;
const PART_STRIDE: u32 = TILE + 4u;  // keeps LANES apart in the banks of workgroup memory
const ROWS_AT_ONCE: u32 = THREADS / UNITS;
const EMPTY: f32 = -1e30;

// Where the token's row of `partial` begins.
//#if TOKENS
var<private> partial_row: u32;
//#else
const partial_row = 0u;
//#endif

var<workgroup> query: array<vec4<f32>, 2u * UNITS>;
// Partial dot products [LANES][PART_STRIDE]; at the end partial sums of V [8][THREADS].
var<workgroup> parts: array<f32, 8u * PART_STRIDE>;
var<workgroup> weights: array<f32, TILE>;

//#if !LIGHT
var<workgroup> square_stage: array<f32, 48>;

// The sums over all threads of three numbers at once.
fn workgroup_sums(thread: u32, v: vec3<f32>) -> vec3<f32> {
  parts[thread] = v.x;
  parts[PART_STRIDE + thread] = v.y;
  parts[2u * PART_STRIDE + thread] = v.z;
  workgroupBarrier();
  if (thread < 48u) {
    let row = (thread / 16u) * PART_STRIDE;
    var sum = 0.0;
    for (var i = thread % 16u; i < THREADS; i += 16u) {
      sum += parts[row + i];
    }
    square_stage[thread] = sum;
  }
  workgroupBarrier();
  var total = vec3<f32>();
  for (var i = 0u; i < 16u; i += 1u) {
    total += vec3<f32>(square_stage[i], square_stage[16u + i], square_stage[32u + i]);
  }
  return total;
}

// Elements `pair` and `pair` + HALF of a head, turned by (cos, sin).
fn turned(v: vec2<f32>, turn: vec2<f32>) -> vec2<f32> {
  return vec2<f32>(v.x * turn.x - v.y * turn.y, v.y * turn.x + v.x * turn.y);
}

fn head_pair(vector: u32, pair: u32) -> vec2<f32> {
  return vec2<f32>(qkv[vector * HEAD_DIM + pair], qkv[vector * HEAD_DIM + HALF + pair]);
}

fn norm_pair(vector: u32, pair: u32) -> vec2<f32> {
  return vec2<f32>(qk_norms[vector * HEAD_DIM + pair], qk_norms[vector * HEAD_DIM + HALF + pair]);
}

//#if KV_WRITE
fn own_value(d: u32) -> f32 { return parts[d]; }
//#endif
//#else
//#if KV_WRITE
fn own_value(d: u32) -> f32 { return head_row[d]; }
//#endif
//#endif
//#if KV_WRITE
//#include own_unit.wgsl
//#endif

//#if HANDED_RANK
// The workgroup's part of the output's A h, for adapters: [splits][heads][HANDED_RANK] behind the
// sums.
var<private> handing_split: u32;

fn handed_value(n: u32) -> f32 { return head_row[n]; }
fn hand_stage(i: u32, sum: mat2x4<f32>) {
//#repeat c FOUR
  parts[8u * i + ${c}u] = sum[0u][${c}u];
  parts[8u * i + 4u + ${c}u] = sum[1u][${c}u];
//#end
}
fn hand_staged(i: u32) -> f32 { return parts[i]; }
fn store_handed(r: u32, sum: f32) {
  partial[partial_row + PARTIAL_LOW + handing_split * HANDED_RANK + r] = sum;
}
//#include adapter.wgsl
//#include hand_low.wgsl
//#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
//#if TOKENS
  hidden_zero = group.x / HEADS;
//#else
  hidden_zero = group.z;
//#endif
//#endif
  let head = group.x;
  let split = group.y;
//#if TOKENS
  let position = steps[group.z].position;
  let sequence = steps[group.z].sequence;
  let first_vector = group.z * (QKV_ROWS / HEAD_DIM);
  partial_row = group.z * PARTIAL_STRIDE;
//#else
  let position = step.position;
  let sequence = step.sequence;
  let first_vector = 0u;
//#endif
  let splits = attention_splits(position);
  if (split >= splits) {
    return;
  }
  let kv_head = head / (HEADS / KV_HEADS);
  let keys = attention_keys(position);
  let chunk = (keys + splits - 1u) / splits;
  let begin = position + 1u - keys + split * chunk;
  var end = min(begin + chunk, position + 1u);

  let unit = thread % UNITS;
  let row = thread / UNITS;
  var top = EMPTY;
  var mass = 0.0;
  var sum = Unit(vec4<f32>(), vec4<f32>());

  // The query; and in the split of the token itself its K and V, which never come from the cache
  // for another workgroup may be writing them. The first head of a group stores them.
//#if LIGHT
  // One loop for the three: software GPUs compile a barrier anew for each place where it stands, and
  // slowly.
  var vectors = 1u;
//#if KV_WRITE
  if (begin <= position && position < end) {
    end = position;
    vectors = 3u;
  }
  let stores = head % (HEADS / KV_HEADS) == 0u;
//#endif
  for (var vector = 0u; vector < vectors; vector += 1u) {
    var source = head;
    if (vector != 0u) {
//#if V_FROM_K
      source = HEADS + kv_head;
//#else
      source = HEADS + kv_head + (vector - 1u) * KV_HEADS;
//#endif
    }
    turn_head(thread, (first_vector + source) * HEAD_DIM, min(vector, 1u) * HEAD_DIM, vector != 2u, position);
    workgroupBarrier();
    if (vector == 0u) {
      for (var i = thread; i < bound(2u * UNITS); i += THREADS) {
        let d = 4u * i;
        query[i] =
            vec4<f32>(head_row[d], head_row[d + 1u], head_row[d + 2u], head_row[d + 3u]);
      }
    }
//#if KV_WRITE
    if (vector != 0u && row == 0u) {
      let own = own_unit(0u, unit);
      if (vector == 1u) {
        sum = own;
        if (stores) {
          keep_k(kv_row(sequence, position, kv_head), 0u, unit, own);
        }
      } else {
        let key = sum;
        sum = own;
        mass = dot(query[2u * unit], key.a) + dot(query[2u * unit + 1u], key.b);
        if (stores) {
          keep_v(kv_row(sequence, position, kv_head), 0u, unit, own);
        }
      }
    }
//#endif
    workgroupBarrier();
  }
//#if KV_WRITE
  if (vectors == 3u) {
    // `mass` held the threads' parts of the token's own score.
    top = workgroup_sum(thread, mass);
    mass = select(0.0, 1.0, thread == 0u);
  }
//#endif
//#else
  // The three at once, a pair of elements a thread: one wait for memory and one reduction.
  var q = vec2<f32>();
  var k = vec2<f32>();
  var v = vec2<f32>();
  var q_norm = vec2<f32>();
  var k_norm = vec2<f32>();
  var turn = vec2<f32>(1.0, 0.0);
  let works = thread < HALF;
//#if KV_WRITE
  let owns = begin <= position && position < end;
//#endif
  if (works) {
    q = head_pair(first_vector + head, thread);
    q_norm = norm_pair(0u, thread);
    if (thread < ROTATED) {
      turn = rope_turn(position, thread);
    }
//#if KV_WRITE
    if (owns) {
      k = head_pair(first_vector + HEADS + kv_head, thread);
//#if V_FROM_K
      v = k;
//#else
      v = head_pair(first_vector + HEADS + KV_HEADS + kv_head, thread);
//#endif
      k_norm = norm_pair(1u, thread);
    }
//#endif
  }
  let squares = workgroup_sums(thread, vec3<f32>(dot(q, q), dot(k, k), dot(v, v)));
  let factors = 1.0 / sqrt(squares / f32(HEAD_DIM) + EPS);
  if (works) {
    let x = turned(q * factors.x * q_norm, turn);
    head_row[thread] = x.x;
    head_row[HALF + thread] = x.y;
//#if KV_WRITE
    if (owns) {
      let y = turned(k * factors.y * k_norm, turn);
      parts[thread] = y.x;
      parts[HALF + thread] = y.y;
      parts[ROW + thread] = v.x * factors.z;
      parts[ROW + HALF + thread] = v.y * factors.z;
    }
//#endif
  }
  if (thread < ROW - HEAD_DIM) {
    head_row[HEAD_DIM + thread] = 0.0;
//#if KV_WRITE
    if (owns) {
      parts[HEAD_DIM + thread] = 0.0;
      parts[ROW + HEAD_DIM + thread] = 0.0;
    }
//#endif
  }
  workgroupBarrier();
  if (thread < 2u * UNITS) {
    let d = 4u * thread;
    query[thread] =
        vec4<f32>(head_row[d], head_row[d + 1u], head_row[d + 2u], head_row[d + 3u]);
  }
  workgroupBarrier();
//#if KV_WRITE
  if (owns) {
    end = position;
    if (row == 0u) {
      let key = own_unit(0u, unit);
      sum = own_unit(ROW, unit);
      mass = dot(query[2u * unit], key.a) + dot(query[2u * unit + 1u], key.b);
      if (head % (HEADS / KV_HEADS) == 0u) {
        keep_k(kv_row(sequence, position, kv_head), 0u, unit, key);
        keep_v(kv_row(sequence, position, kv_head), ROW, unit, sum);
      }
    }
    top = workgroup_sum(thread, mass);
    mass = select(0.0, 1.0, thread == 0u);
  }
//#endif
//#endif

//#if HANDED_RANK
  fetch_handed(thread, head * HEAD_DIM, HEAD_DIM);
//#endif
  let lane = thread % LANES;
  for (var tile = begin; tile < end; tile += TILE) {
    let count = min(TILE, end - tile);
    // Four keys at a time: four loads in flight for each load of the query.
    for (var key = thread / LANES; key < count; key += 4u * KEYS_AT_ONCE) {
//#repeat r FOUR
      let row${r} = kv_row(sequence, tile + min(key + ${r}u * KEYS_AT_ONCE, count - 1u),
                           kv_head);
      var dot${r} = 0.0;
//#end
      for (var u = lane; u < bound(UNITS); u += LANES) {
        let qa = query[2u * u];
        let qb = query[2u * u + 1u];
//#repeat r FOUR
        let k${r} = load_k(row${r}, u);
        dot${r} += dot(k${r}.a, qa) + dot(k${r}.b, qb);
//#end
      }
//#repeat r FOUR
      if (key + ${r}u * KEYS_AT_ONCE < TILE) {
        parts[lane * PART_STRIDE + key + ${r}u * KEYS_AT_ONCE] = dot${r};
      }
//#end
    }
    workgroupBarrier();
    var score = EMPTY;
    if (thread < count) {
      score = 0.0;
      for (var l = 0u; l < bound(LANES); l += 1u) {
        score += parts[l * PART_STRIDE + thread];
      }
    }
    let new_top = max(top, workgroup_max(thread, score));
    var weight = 0.0;
    if (thread < count) {
      weight = exp(score - new_top);
    }
    let shrink = exp(top - new_top);
    top = new_top;
    mass = mass * shrink + weight;
    weights[thread] = weight;
    workgroupBarrier();
    sum.a *= shrink;
    sum.b *= shrink;
    if (row < ROWS_AT_ONCE) {
      for (var key = row; key < count; key += 4u * ROWS_AT_ONCE) {
//#repeat r FOUR
        let key${r} = key + ${r}u * ROWS_AT_ONCE;
        let near${r} = min(key${r}, count - 1u);
        let v${r} = load_v(kv_row(sequence, tile + near${r}, kv_head), unit);
        let w${r} = select(0.0, weights[near${r}], key${r} < count);
//#end
//#repeat r FOUR
        sum.a += w${r} * v${r}.a;
        sum.b += w${r} * v${r}.b;
//#end
      }
    }
  }

  let total = workgroup_sum(thread, mass);
//#repeat r FOUR
  parts[${r}u * THREADS + thread] = sum.a[${r}u];
  parts[(4u + ${r}u) * THREADS + thread] = sum.b[${r}u];
//#end
  workgroupBarrier();
  let out = split * HEADS + head;
  for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
    var x = 0.0;
    for (var r = 0u; r < bound(ROWS_AT_ONCE); r += 1u) {
      x += parts[(d % 8u) * THREADS + r * UNITS + d / 8u];
    }
    partial[partial_row + out * HEAD_DIM + d] = x;
//#if HANDED_RANK
    head_row[d] = x;
//#endif
  }
//#if HANDED_RANK
  workgroupBarrier();
  handing_split = out;
  hand_low(thread, head * HEAD_DIM, HEAD_DIM);
//#endif
  if (thread == 0u) {
//#if TOKENS
    let at = 2u * (group.z * MAX_SPLITS * HEADS + out);
//#else
    let at = 2u * out;
//#endif
    stats[at] = top;
    stats[at + 1u] = total;
  }
}
