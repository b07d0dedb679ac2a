// Attention of the audio tower: a query sees itself and the KEYS - 1 tokens before it, and how far back
// each lies. A workgroup has 16 queries of one head; thread (i, j) has the score of query i and the key j
// before it, then the output columns j + 16 c of query i.
//#include step.wgsl
//#include bound.wgsl
//#include epilogue.wgsl
const THREADS: u32 = 256u;
const CHUNK: u32 = 32u;
// Odd, so that staging writes do not collide in a bank.
const STRIDE: u32 = CHUNK + 1u;
const WIDTH: u32 = HEADS * HEAD_DIM;
const REACH: u32 = KEYS - 1u;
const ROWS: u32 = 16u + REACH;  // keys that 16 queries see
var<workgroup> q_tile: array<f32, 16u * STRIDE>;
var<workgroup> k_tile: array<f32, ROWS * STRIDE>;
var<workgroup> r_tile: array<f32, KEYS * STRIDE>;
var<workgroup> scores: array<f32, THREADS>;

fn k_at(position: u32, column: u32) -> f32 {
  if (position < step.position) {
    return past[position % PAST * WIDTH + column];
  }
  return k[min(position - step.position, step.tokens - 1u) * WIDTH + column];
}

fn v_at(position: u32, column: u32) -> f32 {
  if (position < step.position) {
    return past[(PAST + position % PAST) * WIDTH + column];
  }
  return v[min(position - step.position, step.tokens - 1u) * WIDTH + column];
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let first = 16u * group.x;
  if (first >= step.tokens) {
    return;
  }
  let base = group.y * HEAD_DIM;
  let i = tid / 16u;
  let j = tid % 16u;
  let back = min(j, REACH);
  let position = step.position + first + i;
  var score = 0.0;
  for (var d0 = 0u; d0 < HEAD_DIM; d0 += CHUNK) {
    for (var e = tid; e < bound(ROWS * CHUNK); e += THREADS) {
      let r = e / CHUNK;
      let d = d0 + e % CHUNK;
      let key = step.position + first + r;  // plus REACH
      var kept = vec3<f32>(0.0);
      if (d < HEAD_DIM) {
        if (key >= REACH) {
          kept.x = K_SCALE * k_at(key - REACH, base + d);
        }
        if (r < 16u) {
          kept.y = q_scale[d] * q[min(first + r, step.tokens - 1u) * WIDTH + base + d];
        }
        if (r < KEYS) {
          kept.z = distances[r * WIDTH + base + d];
        }
      }
      k_tile[r * STRIDE + e % CHUNK] = kept.x;
      if (r < 16u) {
        q_tile[r * STRIDE + e % CHUNK] = kept.y;
      }
      if (r < KEYS) {
        r_tile[r * STRIDE + e % CHUNK] = kept.z;
      }
    }
    workgroupBarrier();
    for (var d = 0u; d < bound(CHUNK); d++) {
      score += q_tile[i * STRIDE + d] * (k_tile[(i + REACH - back) * STRIDE + d] + r_tile[back * STRIDE + d]);
    }
    workgroupBarrier();
  }
  let seen = j < KEYS && j <= position;
  score = softcap(score);
  scores[tid] = select(-3.0e38, score, seen);
  workgroupBarrier();
  var top = -3.0e38;
  for (var n = 0u; n < bound(KEYS); n++) {
    top = max(top, scores[16u * i + n]);
  }
  workgroupBarrier();
  scores[tid] = select(0.0, exp(score - top), seen);
  workgroupBarrier();
  if (first + i >= step.tokens) {
    return;
  }
  var total = 0.0;
  for (var n = 0u; n < bound(KEYS); n++) {
    total += scores[16u * i + n];
  }
  for (var d = j; d < bound(HEAD_DIM); d += 16u) {
    var sum = 0.0;
    for (var n = 0u; n < bound(KEYS); n++) {
      sum += scores[16u * i + n] * v_at(position - min(n, position), base + d);
    }
    out[(first + i) * WIDTH + base + d] = sum / total;
  }
}
