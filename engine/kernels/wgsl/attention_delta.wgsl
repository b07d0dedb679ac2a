// stats[t, head].y = do · o: what the gradient of a query's softmax subtracts from every key's. One
// workgroup a head of a token.
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  if (group.y >= step.tokens) {
    return;
  }
  let at = group.y * HEADS + group.x;
  var sum = 0.0;
  for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
    sum += dout[at * HEAD_DIM + d] * out[at * HEAD_DIM + d];
  }
  let total = workgroup_sum(thread, sum);
  if (thread == 0u) {
    stats[2u * at + 1u] = total;
  }
}
