// Norms and rope of the vision tower. One workgroup a head vector of a patch: x counts the heads of q,
// then those of k, then those of v.
const HALF: u32 = HEAD_DIM / 2u;
const PAIRS: u32 = HEAD_DIM / 4u;

// (cos, sin) of pair `pair` at `position`: the product of two tabled turns.
fn turn_of(position: u32, pair: u32) -> vec2<f32> {
  let lo = rope[(position & 255u) * PAIRS + pair];
  let hi = rope[(256u + (position >> 8u)) * PAIRS + pair];
  return vec2<f32>(hi.x * lo.x - hi.y * lo.y, hi.x * lo.y + hi.y * lo.x);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let patch_index = group.y;
  if (patch_index >= step.tokens) {
    return;
  }
  let part = group.x / HEADS;
  let base = (patch_index * HEADS + group.x % HEADS) * HEAD_DIM;
  var squares = 0.0;
  for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
    let value = value_at(part, base + d);
    squares += value * value;
  }
  let scale = 1.0 / sqrt(workgroup_sum(thread, squares) / f32(HEAD_DIM) + EPS);
  if (part == 2u) {
    for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
      v_out[base + d] = v[base + d] * scale;
    }
    return;
  }
  // Pair i of the columns, then pair i of the rows.
  for (var i = thread; i < bound(HALF); i += THREADS) {
    let first = i / PAIRS * HALF + i % PAIRS;
    let second = first + PAIRS;
    let position = select(patch_index % grid.columns, patch_index / grid.columns, i >= PAIRS);
    let turn = turn_of(position, i % PAIRS);
    let a = value_at(part, base + first) * scale * norms[part * HEAD_DIM + first];
    let b = value_at(part, base + second) * scale * norms[part * HEAD_DIM + second];
    let x = a * turn.x - b * turn.y;
    let y = b * turn.x + a * turn.y;
    if (part == 0u) {
      q_out[base + first] = x;
      q_out[base + second] = y;
    } else {
      k_out[base + first] = x;
      k_out[base + second] = y;
    }
  }
}

fn value_at(part: u32, at: u32) -> f32 {
  if (part == 0u) {
    return q[at];
  }
  if (part == 1u) {
    return k[at];
  }
  return v[at];
}
