// Puts the splits of decode attention of several tokens together, one workgroup a (head, token): x, y.
const EMPTY: f32 = -1e30;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let token = group.y;
  let splits = attention_splits(spans[token].position);
  let first = token * MAX_SPLITS * HEADS + head;
  var top = EMPTY;
  for (var s = 0u; s < splits; s += 1u) {
    top = max(top, stats[first + s * HEADS].x);
  }
  var mass = 0.0;
  for (var s = 0u; s < splits; s += 1u) {
    let stat = stats[first + s * HEADS];
    mass += stat.y * exp(stat.x - top);
  }
  for (var d = thread; d < HEAD_DIM; d += THREADS) {
    var sum = 0.0;
    for (var s = 0u; s < splits; s += 1u) {
      let at = first + s * HEADS;
      sum += partial[at * HEAD_DIM + d] * exp(stats[at].x - top);
    }
    out[(token * HEADS + head) * HEAD_DIM + d] = sum / mass;
  }
}
