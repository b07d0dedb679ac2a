// What a low-rank change adds to the outputs of a product: B times the scaled A h. The includer gives
// THREADS, bound.wgsl, LOW_RANK (all parts together), LOW_CHUNKS, and low_part(token, i): entry i of
// the token's A h, [LOW_CHUNKS][LOW_RANK]. `adapter`: a factor a row of A, then B, transposed, part
// by part. low_rank.cpp adds low_row(row): where that row's part is.
//
// In its order: fetch_change(row) for the thread's rows, load_low(), a barrier, change_of(). What is
// fetched of B is then on its way while A h is summed up: of most adapters that is all of a row.
var<workgroup> low: array<f32, LOW_RANK>;

struct LowRow {
  first: u32,  // rank of the part
  rank: u32,   // how many it has
  at: u32,     // in `adapter`: B of the first rank
  step: u32,   // to the next rank's
//#if AHEAD
//#repeat k FOUR
  b_${k}: vec4<f32>,
//#end
//#endif
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

//#if AHEAD
fn low_b(row: LowRow, r: u32) -> f32 { return adapter[row.at + min(r, row.rank - 1u) * row.step]; }
// 0 past the part's ranks.
fn low_a(row: LowRow, r: u32) -> f32 {
  return select(0.0, low[row.first + min(r, row.rank - 1u)], r < row.rank);
}
//#endif

fn fetch_change(i: u32) -> LowRow {
  var row = low_row(i);
//#if AHEAD
  if (row.rank > 0u) {
//#repeat k FOUR
    row.b_${k} = vec4<f32>(low_b(row, 4u * ${k}u), low_b(row, 4u * ${k}u + 1u),
                           low_b(row, 4u * ${k}u + 2u), low_b(row, 4u * ${k}u + 3u));
//#end
  }
//#endif
  return row;
}

fn change_of(row: LowRow) -> f32 {
  var sum = 0.0;
//#if AHEAD
  if (row.rank == 0u) {
    return 0.0;
  }
//#repeat k FOUR
  sum += dot(row.b_${k}, vec4<f32>(low_a(row, 4u * ${k}u), low_a(row, 4u * ${k}u + 1u),
                                   low_a(row, 4u * ${k}u + 2u), low_a(row, 4u * ${k}u + 3u)));
//#end
  for (var r = 16u; r < row.rank; r++) {
//#else
  for (var r = 0u; r < row.rank; r++) {
//#endif
    sum += low[row.first + r] * adapter[row.at + r * row.step];
  }
  return sum;
}
