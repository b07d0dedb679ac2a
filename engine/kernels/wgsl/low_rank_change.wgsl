// What a low-rank change adds to the outputs of a product: B times the scaled A h. The includer gives
// THREADS, bound.wgsl, LOW_RANK (all parts together), LOW_CHUNKS, and low_part(token, i): entry i of
// the token's A h, [LOW_CHUNKS][LOW_RANK]. `adapter`: a factor a row of A, then B, transposed, part
// by part; low_rank.cpp adds change(row).
var<workgroup> low: array<f32, LOW_RANK>;

// To be followed by a barrier.
fn load_low(tid: u32, token: u32) {
  for (var r = tid; r < LOW_RANK; r += THREADS) {
    var sum = 0.0;
    for (var c = 0u; c < bound(LOW_CHUNKS); c++) {
      sum += low_part(token, c * LOW_RANK + r);
    }
    low[r] = adapter[r] * sum;
  }
}

// Row i of a part of `width` rows, whose ranks begin at `first` and whose B is at `base`.
fn low_product(first: u32, rank: u32, base: u32, width: u32, i: u32) -> f32 {
  var sum = 0.0;
  for (var r = 0u; r < bound(rank); r++) {
    sum += low[first + r] * adapter[base + r * width + i];
  }
  return sum;
}
