// A convolution of 3 by 3 with stride 2 over a picture of frames and mel bins, a norm over its channels,
// and ReLU. A workgroup has POSITIONS bins of one row of the result, a thread one channel of one.
//#include bound.wgsl
const THREADS: u32 = 256u;
const POSITIONS: u32 = THREADS / OUT;
// The C++ twin is kernels::Frames.
struct Frames {
  offset: u32,
  in_rows: u32,
  out_rows: u32,
}
var<workgroup> sums: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let place = thread / OUT;
  let channel = thread % OUT;
  let bin = group.x * POSITIONS + place;
  let row = group.y;
  let wanted = place < POSITIONS && bin < OUT_BINS && row < frames.out_rows;
  var sum = 0.0;
  if (wanted) {
    for (var tap = 0u; tap < bound(9u); tap++) {
      // One more than the row and the bin: those of the padding are 0, and past the end.
      let from_row = 2u * row + frames.offset + tap / 3u;
      let from_bin = 2u * bin + tap % 3u;
      if (from_row == 0u || from_row > frames.in_rows || from_bin == 0u || from_bin > IN_BINS) {
        continue;
      }
      let input = ((from_row - 1u) * IN_BINS + from_bin - 1u) * IN;
      for (var i = 0u; i < bound(IN); i++) {
        sum += x[input + i] * weights[(i * 9u + tap) * OUT + channel];
      }
    }
  }
  sums[thread] = sum;
  workgroupBarrier();
  if (!wanted) {
    return;
  }
  var mean = 0.0;
  for (var i = 0u; i < bound(OUT); i++) {
    mean += sums[place * OUT + i];
  }
  mean /= f32(OUT);
  var squares = 0.0;
  for (var i = 0u; i < bound(OUT); i++) {
    let d = sums[place * OUT + i] - mean;
    squares += d * d;
  }
  let normed = (sum - mean) / sqrt(squares / f32(OUT) + EPS) * weights[9u * IN * OUT + channel];
  y[(row * OUT_BINS + bin) * OUT + channel] = max(normed, 0.0);
}
