// Norms, rope and cache write for T tokens, in place. One workgroup a head vector of a token: x
// counts the query heads, then the K heads, then the V heads; y counts tokens. All take one path:
// software GPUs compile a barrier anew for each place where it stands, and slowly.
//#if KV_WRITE
fn own_value(d: u32) -> f32 { return head_row[d]; }
//#include own_unit.wgsl
//#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let token = group.y;
  if (token >= step.tokens) {
    return;
  }
  let span = span_of(token);
  let position = span.position + token - span.first;
  let head = group.x;
  let is_q = head < HEADS;
  let is_v = head >= HEADS + KV_HEADS;
  var row = head;
//#if V_FROM_K
  if (is_v) {
    row = head - KV_HEADS;
  }
//#endif
  let base = token * QKV_ROWS + row * HEAD_DIM;
  turn_head(thread, base, select(HEAD_DIM, 0u, is_q), !is_v, position);
  workgroupBarrier();
  if (is_q) {
    for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
      qkv[base + d] = head_row[d];
    }
  }
//#if KV_WRITE
  if (!is_q) {
    let start = kv_row(span.sequence, position, (head - HEADS) % KV_HEADS);
    for (var u = thread; u < bound(UNITS); u += THREADS) {
      let value = own_unit(0u, u);
      if (is_v) {
        keep_v(start, 0u, u, value);
      } else {
        keep_k(start, 0u, u, value);
      }
    }
  }
//#endif
}
