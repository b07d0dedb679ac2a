// The gradients of attention_train.wgsl by recomputation. With p = exp(q·k - stats.x) and
// ds = p (do·v - stats.y): dq = sum over keys of ds k; and BY_KEY dk = sum over queries of ds q,
// dv = sum over queries of p do, of one head each (sum_heads.wgsl joins those of a KV head).
// A workgroup has 16 queries, or keys, of one head: its rows; it walks over their keys, or queries,
// 16 at a time: its columns. Thread (i, j) has p and ds of row i and column j, then the results'
// elements j + 16 c of row i.
//#include attention_pairs.wgsl
var<workgroup> do_tile: array<f32, 16u * STRIDE>;
var<workgroup> v_tile: array<f32, 16u * STRIDE>;
var<workgroup> ds_tile: array<f32, 256>;
var<private> ds_sum: array<f32, COLUMNS_EACH>;
//#if BY_KEY
var<workgroup> p_tile: array<f32, 256>;
var<private> p_sum: array<f32, COLUMNS_EACH>;
//#endif

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
//#if BY_KEY
  let begin = first;
  let end = end_query(min(first + 15u, last));
//#else
  let begin = first_key(first);
  let end = min(first + 16u, step.tokens);
//#endif
  for (var other = begin; other < end; other += 16u) {
//#if BY_KEY
    let query0 = other;
    let key0 = first;
    let query = other + j;
    let key = first + i;
    let q_row = j;
    let k_row = i;
//#else
    let query0 = first;
    let key0 = other;
    let query = first + i;
    let key = other + j;
    let q_row = i;
    let k_row = j;
//#endif
    var score = 0.0;
    var dp = 0.0;
    for (var d0 = 0u; d0 < HEAD_DIM; d0 += CHUNK) {
      for (var e = tid; e < bound(16u * CHUNK); e += THREADS) {
        let r = e / CHUNK;
        let d = min(d0 + e % CHUNK, HEAD_DIM - 1u);
        let inside = select(0.0, 1.0, d0 + e % CHUNK < HEAD_DIM);
        let q_at = (min(query0 + r, last) * HEADS + head) * HEAD_DIM + d;
        let k_at = (min(key0 + r, last) * KV_HEADS + kv_head) * HEAD_DIM + d;
        let at = r * STRIDE + e % CHUNK;
        q_tile[at] = inside * q[q_at];
        do_tile[at] = inside * dout[q_at];
        k_tile[at] = k[k_at];
        v_tile[at] = v[k_at];
      }
      workgroupBarrier();
      for (var d = 0u; d < bound(CHUNK); d++) {
        score += q_tile[q_row * STRIDE + d] * k_tile[k_row * STRIDE + d];
        dp += do_tile[q_row * STRIDE + d] * v_tile[k_row * STRIDE + d];
      }
      workgroupBarrier();
    }
    let at = 2u * (min(query, last) * HEADS + head);
    var p = 0.0;
    if (visible(query, key)) {
      p = exp(score - stats[at]);
    }
    ds_tile[tid] = p * (dp - stats[at + 1u]);
//#if BY_KEY
    p_tile[tid] = p;
//#endif
    workgroupBarrier();
    for (var n = 0u; n < bound(16u); n++) {
      let ds = ds_tile[16u * i + n];
//#if BY_KEY
      let p_n = p_tile[16u * i + n];
      let row = (min(other + n, last) * HEADS + head) * HEAD_DIM;
      for (var c = 0u; c < bound(COLUMNS_EACH); c++) {
        let d = row + min(j + 16u * c, HEAD_DIM - 1u);
        ds_sum[c] += ds * q[d];
        p_sum[c] += p_n * dout[d];
      }
//#else
      let row = (min(other + n, last) * KV_HEADS + kv_head) * HEAD_DIM;
      for (var c = 0u; c < bound(COLUMNS_EACH); c++) {
        ds_sum[c] += ds * k[row + min(j + 16u * c, HEAD_DIM - 1u)];
      }
//#endif
    }
    workgroupBarrier();
  }
  let token = first + i;
  if (token > last) {
    return;
  }
  for (var c = 0u; c < bound(COLUMNS_EACH); c++) {
    let d = j + 16u * c;
    if (d < HEAD_DIM) {
//#if BY_KEY
      dk_part[(head * step.tokens + token) * HEAD_DIM + d] = ds_sum[c];
      dv_part[(head * step.tokens + token) * HEAD_DIM + d] = p_sum[c];
//#else
      dq[(token * HEADS + head) * HEAD_DIM + d] = ds_sum[c];
//#endif
    }
  }
}
