// One token's attention over the cache, one workgroup a (head, split): x, y. Keys come in tiles of
// one a thread: LANES neighbouring threads share the dot product of a key, so that a row is read in
// whole lines; then the threads turn to the V rows, UNITS of them side by side on one row, and keep
// their sums in registers until the end. Softmax is streamed: maximum `top`, sum `mass`.
const TILE: u32 = THREADS;
const KEYS_AT_ONCE: u32 = THREADS / LANES;
const PART_STRIDE: u32 = TILE + 4u;  // keeps LANES apart in the banks of workgroup memory
const ROWS_AT_ONCE: u32 = THREADS / UNITS;
const EMPTY: f32 = -1e30;

var<workgroup> query: array<vec4<f32>, 2u * UNITS>;
// Partial dot products [LANES][PART_STRIDE]; at the end partial sums of V [8][THREADS].
var<workgroup> parts: array<f32, 8u * PART_STRIDE>;
var<workgroup> weights: array<f32, TILE>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let head = group.x;
  let split = group.y;
  let position = step.position;
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
  // for another workgroup may be writing them. The first head of a group stores them. One loop for
  // the three: software GPUs compile a barrier anew for each place where it stands, and slowly.
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
    turn_head(thread, source * HEAD_DIM, min(vector, 1u) * HEAD_DIM, vector != 2u, position);
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
      let own = rounded_unit(unit);
      if (vector == 1u) {
        sum = own;
        if (stores) {
          store_k(kv_row(position, kv_head) + unit, own);
        }
      } else {
        let key = sum;
        sum = own;
        mass = dot(query[2u * unit], key.a) + dot(query[2u * unit + 1u], key.b);
        if (stores) {
          store_v(kv_row(position, kv_head) + unit, own);
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

  let lane = thread % LANES;
  for (var tile = begin; tile < end; tile += TILE) {
    let count = min(TILE, end - tile);
    // Four keys at a time: four loads in flight for each load of the query.
    for (var key = thread / LANES; key < count; key += 4u * KEYS_AT_ONCE) {
//#repeat r FOUR
      let row${r} = kv_row(tile + min(key + ${r}u * KEYS_AT_ONCE, count - 1u), kv_head);
      var dot${r} = 0.0;
//#end
      for (var u = lane; u < bound(UNITS); u += LANES) {
        let qa = query[2u * u];
        let qb = query[2u * u + 1u];
//#repeat r FOUR
        let k${r} = load_k(row${r} + u);
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
        let v${r} = load_v(kv_row(tile + near${r}, kv_head) + unit);
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
    partial[out * HEAD_DIM + d] = x;
  }
  if (thread == 0u) {
    stats[2u * out] = top;
    stats[2u * out + 1u] = total;
  }
}
