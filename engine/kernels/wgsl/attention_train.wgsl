// Causal attention over a packed batch, for training: K and V in f32, and the logarithm of every
// query's sum of exponentials is kept for the way back. With EVERY_KEY, for the vision tower: a query
// sees all keys, and nothing is kept. A workgroup has 16 queries of one head and
// walks over their keys 16 at a time with a running maximum; thread (i, j) has the score of query i
// and key j, then the output columns j + 16 c of query i.
//#include attention_pairs.wgsl
var<workgroup> scores: array<f32, 256>;
var<private> acc: array<f32, COLUMNS_EACH>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let head = group.y;
  let kv_head = head / (HEADS / KV_HEADS);
  let first = 16u * group.x;
  if (first >= step.tokens) {
    return;
  }
  let last = step.tokens - 1u;
  let i = tid / 16u;
  let j = tid % 16u;
  let query = first + i;
  var top = -3.0e38;
  var total = 0.0;
//#if EVERY_KEY
  let last_key = last;
//#else
  let last_key = min(first + 15u, last);
//#endif
  for (var key0 = first_key(first); key0 <= last_key; key0 += 16u) {
    var score = 0.0;
    for (var d0 = 0u; d0 < HEAD_DIM; d0 += CHUNK) {
      for (var e = tid; e < bound(16u * CHUNK); e += THREADS) {
        let r = e / CHUNK;
        let d = d0 + e % CHUNK;
        var x = vec2<f32>(0.0);
        if (d < HEAD_DIM) {
          x = vec2<f32>(q[(min(first + r, last) * HEADS + head) * HEAD_DIM + d],
                        k[(min(key0 + r, last) * KV_HEADS + kv_head) * HEAD_DIM + d]);
        }
        q_tile[r * STRIDE + e % CHUNK] = x.x;
        k_tile[r * STRIDE + e % CHUNK] = x.y;
      }
      workgroupBarrier();
      for (var d = 0u; d < bound(CHUNK); d++) {
        score += q_tile[i * STRIDE + d] * k_tile[j * STRIDE + d];
      }
      workgroupBarrier();
    }
    let seen = visible(query, key0 + j);
    scores[tid] = select(-3.0e38, score, seen);
    workgroupBarrier();
    var new_top = top;
    for (var n = 0u; n < bound(16u); n++) {
      new_top = max(new_top, scores[16u * i + n]);
    }
    workgroupBarrier();
    scores[tid] = select(0.0, exp(score - new_top), seen);
    workgroupBarrier();
    let shrink = exp(top - new_top);
    top = new_top;
    total *= shrink;
    for (var c = 0u; c < bound(COLUMNS_EACH); c++) {
      acc[c] *= shrink;
    }
    for (var n = 0u; n < bound(16u); n++) {
      let p = scores[16u * i + n];
      total += p;
      let row = (min(key0 + n, last) * KV_HEADS + kv_head) * HEAD_DIM;
      for (var c = 0u; c < bound(COLUMNS_EACH); c++) {
        acc[c] += p * v[row + min(j + 16u * c, HEAD_DIM - 1u)];
      }
    }
    workgroupBarrier();
  }
  if (query <= last) {
    let at = query * HEADS + head;
    for (var c = 0u; c < bound(COLUMNS_EACH); c++) {
      if (j + 16u * c < HEAD_DIM) {
        out[at * HEAD_DIM + j + 16u * c] = acc[c] / total;
      }
    }
//#if !EVERY_KEY
    if (j == 0u) {
      stats[2u * at] = top + log(total);
    }
//#endif
  }
}
