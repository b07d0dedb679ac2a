// dk and dv of a KV head: the sums over the query heads that read it, added to what other layers
// that share it have left there, where there are any (ACCUMULATE).
//#include step.wgsl
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let d = id.x;
  let token = id.y;
  let kv_head = id.z;
  if (d >= HEAD_DIM || token >= step.tokens) {
    return;
  }
  var sums = vec2<f32>(0.0);
  for (var a = 0u; a < HEADS / KV_HEADS; a++) {
    let at = ((kv_head * (HEADS / KV_HEADS) + a) * step.tokens + token) * HEAD_DIM + d;
    sums += vec2<f32>(dk_part[at], dv_part[at]);
  }
  let to = (token * KV_HEADS + kv_head) * HEAD_DIM + d;
//#if ACCUMULATE
  dk[to] += sums.x;
  dv[to] += sums.y;
//#else
  dk[to] = sums.x;
  dv[to] = sums.y;
//#endif
}
