// What a low-rank change adds to the outputs of a product: B times the scaled A h. The includer gives
// THREADS, bound.wgsl, LOW_RANK (all parts together), LOW_CHUNKS, and low_part(token, i): entry i of
// the token's A h, [LOW_CHUNKS][LOW_RANK]. `adapter`: a factor a row of A, then B, transposed, part
// by part. low_rank.cpp adds low_row(row): where that row's part is.
//
// In its order: fetch_change(row) for the thread's rows, load_low(), a barrier, change_of(). Where all
// parts have one rank (AHEAD vectors of 4 of it), what is fetched of B is on its way while A h is
// summed up.
var<workgroup> low: array<f32, LOW_RANK>;

struct LowRow {
  first: u32,  // rank of the part
  rank: u32,   // how many it has
  at: u32,     // in `adapter`: B of the first rank
  step: u32,   // to the next rank's
//#repeat k AHEAD
  b_${k}: vec4<f32>,
//#end
}

fn load_low(tid: u32, token: u32) {
  for (var r = tid; r < LOW_RANK; r += THREADS) {
    let factor = adapter[r];
    var sum = 0.0;
    for (var c = 0u; c < bound(LOW_CHUNKS); c++) {
      sum += low_part(token, c * LOW_RANK + r);
    }
    low[r] = factor * sum;
  }
}

fn fetch_change(i: u32) -> LowRow {
  var row = low_row(i);
//#repeat k AHEAD
  {
    let at = row.at + 4u * ${k}u * row.step;
    row.b_${k} = vec4<f32>(adapter[at], adapter[at + row.step], adapter[at + 2u * row.step],
                           adapter[at + 3u * row.step]);
  }
//#end
  return row;
}

fn change_of(row: LowRow) -> f32 {
  var sum = 0.0;
//#repeat k AHEAD
  {
    let r = row.first + 4u * ${k}u;
    sum += dot(row.b_${k}, vec4<f32>(low[r], low[r + 1u], low[r + 2u], low[r + 3u]));
  }
//#end
  for (var r = 4u * AHEAD; r < row.rank; r++) {
    sum += low[row.first + r] * adapter[row.at + r * row.step];
  }
  return sum;
}
