// One head vector of the fused projection, normed and turned, in workgroup memory. The includer
// gives THREADS, HEAD_DIM, ROTATED, UNITS: u32, EPS: f32, includes workgroup_reduce.wgsl, and binds qkv: array<f32>, qk_norms: array<f32> and rope: array<vec2<f32>>.
const HALF: u32 = HEAD_DIM / 2u;
const ROW: u32 = 8u * UNITS;
var<workgroup> head_row: array<f32, ROW>;

// 1 / sqrt(mean of squares + eps) of the HEAD_DIM floats at `base`.
fn head_scale(thread: u32, base: u32) -> f32 {
  var sum = 0.0;
  for (var d = thread; d < bound(HEAD_DIM); d += THREADS) {
    let x = qkv[base + d];
    sum += x * x;
  }
  return 1.0 / sqrt(workgroup_sum(thread, sum) / f32(HEAD_DIM) + EPS);
}

// (cos, sin) of pair `pair` at `position`: the product of two tabled turns.
fn rope_turn(position: u32, pair: u32) -> vec2<f32> {
  let lo = rope[(position & 255u) * ROTATED + pair];
  let hi = rope[(256u + (position >> 8u)) * ROTATED + pair];
  return vec2<f32>(hi.x * lo.x - hi.y * lo.y, hi.x * lo.y + hi.y * lo.x);
}

// head_row = rope(rms(qkv[base..]) * qk_norms[norm..]), or, for V, rms(qkv[base..]) alone; zeros
// after HEAD_DIM. No barrier after it.
fn turn_head(thread: u32, base: u32, norm: u32, turns: bool, position: u32) {
  let scale = head_scale(thread, base);
  for (var i = thread; i < bound(HALF); i += THREADS) {
    var x = qkv[base + i] * scale;
    var y = qkv[base + HALF + i] * scale;
    if (turns) {
      x *= qk_norms[norm + i];
      y *= qk_norms[norm + HALF + i];
      if (i < ROTATED) {
        let turn = rope_turn(position, i);
        let turned = x * turn.x - y * turn.y;
        y = y * turn.x + x * turn.y;
        x = turned;
      }
    }
    head_row[i] = x;
    head_row[i + HALF] = y;
  }
  for (var d = HEAD_DIM + thread; d < bound(ROW); d += THREADS) {
    head_row[d] = 0.0;
  }
}
