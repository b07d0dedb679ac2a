// Norms, rope and cache write for T tokens, in place. One workgroup a head vector of a token: x
// counts the query heads, then the K heads, then the V heads; y counts tokens.
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = group.y;
  if (token >= step.tokens) {
    return;
  }
  let position = step.position + token;
  let base = token * QKV_ROWS;
  let head = group.x;
  if (head < HEADS) {
    let q = base + head * HEAD_DIM;
    turn_head(thread, q, 0u, position);
    workgroupBarrier();
    for (var d = thread; d < HEAD_DIM; d += THREADS) {
      qkv[q + d] = head_row[d];
    }
    return;
  }
//#if KV_WRITE
  if (head < HEADS + KV_HEADS) {
    let kv_head = head - HEADS;
    turn_head(thread, base + head * HEAD_DIM, HEAD_DIM, position);
    workgroupBarrier();
    for (var u = thread; u < UNITS; u += THREADS) {
      store_k(kv_row(position, kv_head) + u, rounded_unit(u));
    }
    return;
  }
  let kv_head = head - HEADS - KV_HEADS;
//#if V_FROM_K
  norm_head(thread, base + (HEADS + kv_head) * HEAD_DIM);
//#else
  norm_head(thread, base + head * HEAD_DIM);
//#endif
  workgroupBarrier();
  for (var u = thread; u < UNITS; u += THREADS) {
    store_v(kv_row(position, kv_head) + u, rounded_unit(u));
  }
//#endif
}
