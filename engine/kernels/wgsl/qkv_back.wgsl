// The way back through qkv_train.wgsl: one workgroup a head vector of the projection's output, x
// counting those of q, k and v. A rotation's inverse is its transpose; for the norm see
// residual_norm_back.wgsl. Where V is made of K, a K head collects both gradients.
var<workgroup> back_row: array<f32, HEAD_DIM>;

// The gradient of one norm: adds to out what comes back through y = w r x, whose gradient is in
// back_row. weighted: w is qk_norms[norm..], else ones.
fn norm_back(thread: u32, base: u32, inverse: f32, norm: u32, weighted: bool, add: bool) {
  var products = 0.0;
  for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
    products += select(1.0, qk_norms[norm + d], weighted) * back_row[d] * qkv[base + d];
  }
  let along = workgroup_sum(thread, products) / f32(HEAD_DIM) * inverse * inverse * inverse;
  for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
    let g = inverse * select(1.0, qk_norms[norm + d], weighted) * back_row[d] -
            along * qkv[base + d];
    dqkv[base + d] = select(g, dqkv[base + d] + g, add);
  }
}

// back_row = the gradient before rope of a head of q or k.
fn turn_back(thread: u32, head: u32, token: u32) {
  let position = token - spans[token].x;
  for (var i = thread; i < bound(HALF); i += THREADS) {
    var x = 0.0;
    var y = 0.0;
    if (head < HEADS) {
      let at = (token * HEADS + head) * HEAD_DIM + i;
      x = dq[at];
      y = dq[at + HALF];
    }
//#if HAS_KV
    else {
      let at = (token * KV_HEADS + head - HEADS) * HEAD_DIM + i;
      x = dk[at];
      y = dk[at + HALF];
    }
//#endif
    if (i < ROTATED) {
      let turn = rope_turn(position, i);
      let turned = x * turn.x + y * turn.y;
      y = y * turn.x - x * turn.y;
      x = turned;
    }
    back_row[i] = x;
    back_row[i + HALF] = y;
  }
}

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
  let base = token * QKV_ROWS + head * HEAD_DIM;
  let inverse = head_scale(thread, base);
  let turns = head < HEADS + KV_HEADS;
  if (turns) {
    turn_back(thread, head, token);
  }
//#if HAS_KV
  else {
    for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
      back_row[d] = dv[(token * KV_HEADS + head - HEADS - KV_HEADS) * HEAD_DIM + d];
    }
  }
//#endif
  workgroupBarrier();
  norm_back(thread, base, inverse, select(HEAD_DIM, 0u, head < HEADS), turns, false);
//#if V_FROM_K
  if (head >= HEADS) {
    workgroupBarrier();
    for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
      back_row[d] = dv[(token * KV_HEADS + head - HEADS) * HEAD_DIM + d];
    }
    workgroupBarrier();
    norm_back(thread, base, inverse, 0u, false, true);
  }
//#endif
}
