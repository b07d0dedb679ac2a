// q, k and v norms and rope for T tokens, not in place: training needs what went in. One workgroup
// a head vector of a token: x counts the query heads, then the K heads, then the V heads.
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let token = group.y;
  if (token >= step.tokens) {
    return;
  }
  let head = group.x;
  let is_q = head < HEADS;
  let is_v = head >= HEADS + KV_HEADS;
  var row = head;
//#if V_FROM_K
  if (is_v) {
    row = head - KV_HEADS;
  }
//#endif
  turn_head(thread, token * QKV_ROWS + row * HEAD_DIM, select(HEAD_DIM, 0u, is_q), !is_v,
            token - spans[token].x);
  workgroupBarrier();
  for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
    if (is_q) {
      q[(token * HEADS + head) * HEAD_DIM + d] = head_row[d];
    }
//#if HAS_KV
    else if (is_v) {
      v[(token * KV_HEADS + head - HEADS - KV_HEADS) * HEAD_DIM + d] = head_row[d];
    } else {
      k[(token * KV_HEADS + head - HEADS) * HEAD_DIM + d] = head_row[d];
    }
//#endif
  }
}
