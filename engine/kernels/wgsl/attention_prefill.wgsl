// Flash attention of T queries over the cache, one workgroup a (head, QUERIES queries): x, y. Keys
// come in tiles of KEYS. For the scores a thread holds 4 queries x KEYS_A_THREAD keys, and the
// tile's K and Q pass through workgroup memory in pieces of 32 elements; for the output it holds 4
// queries x one unit of V. Softmax is streamed: maximum `top`, sum `mass`.
const KEYS: u32 = 64u;
const QUERIES: u32 = 4u * FOURS;
const KEY_THREADS: u32 = THREADS / FOURS;
const PIECE: u32 = 8u;   // vectors of 4 elements
const STRIDE: u32 = 9u;  // a row of a piece, one more so that rows start in different banks
const EMPTY: f32 = -1e30;

// K piece [KEYS][STRIDE]; then scores, and then weights, [KEYS][FOURS] of 4 queries each.
var<workgroup> tile: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> query: array<vec4<f32>, QUERIES * STRIDE>;
var<workgroup> maxima: array<vec4<f32>, 8u * FOURS>;

fn query_vector(token: u32, end: u32, head: u32, i: u32) -> vec4<f32> {
  var x = vec4<f32>();
  if (token < end && 4u * i < HEAD_DIM) {
    let base = token * QKV_ROWS + head * HEAD_DIM + 4u * i;
//#if VECTORS
    x = qkv[base / 4u];
//#else
    x = vec4<f32>(qkv[base], qkv[base + 1u], 0.0, 0.0);
    if (4u * i + 2u < HEAD_DIM) {
      x.z = qkv[base + 2u];
      x.w = qkv[base + 3u];
    }
//#endif
  }
  return x;
}

// Four elements, from i on, of a head's output.
fn store_out(base: u32, i: u32, x: vec4<f32>) {
  if (i >= HEAD_DIM) {
    return;
  }
//#if VECTORS
  out[(base + i) / 4u] = x;
//#else
  out[base + i] = x.x;
  out[base + i + 1u] = x.y;
  if (i + 2u < HEAD_DIM) {
    out[base + i + 2u] = x.z;
    out[base + i + 3u] = x.w;
  }
//#endif
}

// The maxima of four queries over the tile's keys.
fn tile_top(four: u32) -> vec4<f32> {
  var top = maxima[8u * four];
  for (var i = 1u; i < bound(8u); i += 1u) {
    top = max(top, maxima[8u * four + i]);
  }
  return top;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let head = group.x;
  let kv_head = head / (HEADS / KV_HEADS);
  let queries = part_of_span(group.y, QUERIES);
  if (queries.tokens == 0u) {
    return;
  }
  let first_token = queries.first;
  let end_token = first_token + queries.tokens;
  let first_query = queries.position;
//#if BOTH_WAYS
  let end = last[end_token - 1u] + 1u;
//#else
  let end = first_query + queries.tokens;
//#endif
  var begin = 0u;
  if (WINDOW != 0u && first_query + 1u > WINDOW) {
    begin = first_query + 1u - WINDOW;
  }

  // As one of the threads of the scores:
  let score_four = thread / KEY_THREADS;
  let score_key = thread % KEY_THREADS;
  let at = vec4<u32>(first_query + 4u * score_four) + vec4<u32>(0u, 1u, 2u, 3u);
//#if BOTH_WAYS
  let score_token = vec4<u32>(first_token + 4u * score_four) + vec4<u32>(0u, 1u, 2u, 3u);
  let of_token = min(score_token, vec4<u32>(end_token - 1u));
  let until = vec4<u32>(last[of_token.x], last[of_token.y], last[of_token.z], last[of_token.w]);
//#else
  let until = at;
//#endif
  var score_top = vec4<f32>(EMPTY);
  // As one of the threads of the output:
  let four = min(thread / UNITS, FOURS - 1u);
  let works = thread / UNITS < FOURS;
  let unit = thread % UNITS;
  var top = vec4<f32>(EMPTY);
  var mass = vec4<f32>();
//#repeat q FOUR
  var a${q} = vec4<f32>();
  var b${q} = vec4<f32>();
//#end

  for (var first_key = begin; first_key < end; first_key += KEYS) {
    let count = min(KEYS, end - first_key);
//#repeat k KEYS_A_THREAD
    var score${k} = vec4<f32>();
//#end
    for (var piece = 0u; piece < 2u * UNITS; piece += PIECE) {
      workgroupBarrier();
      for (var i = thread; i < bound(KEYS * PIECE / 2u); i += THREADS) {
        let key = i / (PIECE / 2u);
        let u = i % (PIECE / 2u);
        var value = Unit(vec4<f32>(), vec4<f32>());
        if (key < count && piece / 2u + u < UNITS) {
          value = load_k(kv_row(queries.sequence, first_key + key, kv_head), piece / 2u + u);
        }
        tile[key * STRIDE + 2u * u] = value.a;
        tile[key * STRIDE + 2u * u + 1u] = value.b;
      }
      for (var i = thread; i < bound(QUERIES * PIECE); i += THREADS) {
        query[(i / PIECE) * STRIDE + i % PIECE] =
            query_vector(first_token + i / PIECE, end_token, head, piece + i % PIECE);
      }
      workgroupBarrier();
      for (var i = 0u; i < bound(PIECE); i += 1u) {
        let q0 = query[(4u * score_four) * STRIDE + i];
        let q1 = query[(4u * score_four + 1u) * STRIDE + i];
        let q2 = query[(4u * score_four + 2u) * STRIDE + i];
        let q3 = query[(4u * score_four + 3u) * STRIDE + i];
//#repeat k KEYS_A_THREAD
        let k${k} = tile[(score_key + ${k}u * KEY_THREADS) * STRIDE + i];
        score${k} += vec4<f32>(dot(q0, k${k}), dot(q1, k${k}), dot(q2, k${k}), dot(q3, k${k}));
//#end
      }
    }
    workgroupBarrier();
//#repeat k KEYS_A_THREAD
    let key${k} = score_key + ${k}u * KEY_THREADS;
    let position${k} = vec4<u32>(first_key + key${k});
    var seen${k} = (position${k} <= until) & vec4<bool>(key${k} < count);
    if (WINDOW != 0u) {
      seen${k} = seen${k} & (at < position${k} + vec4<u32>(WINDOW));
    }
    score${k} = select(vec4<f32>(EMPTY), score${k}, seen${k});
    tile[key${k} * FOURS + score_four] = score${k};
//#end
    workgroupBarrier();
    if (thread < 8u * FOURS) {
      var most = vec4<f32>(EMPTY);
      for (var key = thread % 8u; key < bound(KEYS); key += 8u) {
        most = max(most, tile[key * FOURS + thread / 8u]);
      }
      maxima[thread] = most;
    }
    workgroupBarrier();
    score_top = max(score_top, tile_top(score_four));
//#repeat k KEYS_A_THREAD
    tile[key${k} * FOURS + score_four] =
        select(vec4<f32>(), exp(score${k} - score_top), seen${k});
//#end
    let new_top = max(top, tile_top(four));
    let shrink = exp(top - new_top);
    top = new_top;
    mass *= shrink;
//#repeat q FOUR
    a${q} *= shrink[${q}u];
    b${q} *= shrink[${q}u];
//#end
    workgroupBarrier();
    if (works) {
      for (var key = 0u; key < count; key += 2u) {
        // A tile's weights are 0 past `count`, but what lies in the cache there may be anything.
        let v0 = load_v(kv_row(queries.sequence, first_key + key, kv_head), unit);
        let next = min(key + 1u, count - 1u);
        let v1 = load_v(kv_row(queries.sequence, first_key + next, kv_head), unit);
        let w0 = tile[key * FOURS + four];
        let w1 = tile[(key + 1u) * FOURS + four];
        mass += w0 + w1;
//#repeat q FOUR
        a${q} += w0[${q}u] * v0.a + w1[${q}u] * v1.a;
        b${q} += w0[${q}u] * v0.b + w1[${q}u] * v1.b;
//#end
      }
    }
  }

  if (works) {
//#repeat q FOUR
    {
      let token = first_token + 4u * four + ${q}u;
      if (token < end_token) {
        let base = (token * HEADS + head) * HEAD_DIM;
        let inverse = 1.0 / mass[${q}u];
        store_out(base, 8u * unit, a${q} * inverse);
        store_out(base, 8u * unit + 4u, b${q} * inverse);
      }
    }
//#end
  }
}
