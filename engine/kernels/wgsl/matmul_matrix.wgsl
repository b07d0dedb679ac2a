// The matmul's matrix form: products of 16 by 16 halves by a subgroup of 32 threads, sums in f32. A
// workgroup computes TILE_ROWS rows of W for TILE_TOKENS tokens, a unit (32 columns) at a time, in
// two tiles by turns: one is filled while the other is multiplied. With GeGLU the first half of the
// rows is gate and the second half the same rows of up.
//
// Activations come as quantize_halves.wgsl scales them. Weights become halves here, times
// WEIGHT_SCALE, a power of two: a half is exact to 2^-11 of itself only from 2^-14 on, and weights
// are small. Where a weight might be too large for that, the workgroup computes its rows once more,
// in f32 (exact_sum).
//#include step.wgsl
//#include matmul_place.wgsl
//#include matmul_tokens.wgsl
alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;

const TILE_ROWS: u32 = 16u * ROWS_EACH;
const TILE_TOKENS: u32 = THREADS / 2u;
const HALF_TILE: u32 = TILE_ROWS / 2u;
const WEIGHT_SCALE = 256.0;
const MOST = 65504.0;  // of a half
// Vectors of 8 halves from one row or token of a tile to the next: odd, so that eight of them lie in
// different banks.
const STRIDE: u32 = 5u;
const W_TILE: u32 = TILE_ROWS * STRIDE;
const X_TILE: u32 = TILE_TOKENS * STRIDE;
const X_ROW: u32 = COLS / 8u;

var<workgroup> w_tiles: array<vec4<u32>, 2u * W_TILE>;
var<workgroup> x_tiles: array<vec4<u32>, 2u * X_TILE>;
// Of each subgroup the sums of 16 rows by 16 tokens, a token after the other.
var<workgroup> scratch: array<f32, 8u * THREADS>;

// What this thread brings of the next unit: that of a row, of which it makes DECODES halves, and two
// vectors of tokens.
var<private> w_next: Fetched;
//#repeat n TWO
var<private> x_next_${n}: vec4<u32>;
//#end
// No weight of this thread's, times WEIGHT_SCALE, is larger.
var<private> w_most: f32;

fn fetch(tid: u32, first_token: u32, u: u32) {
  // THREADS is a multiple of TILE_ROWS.
  w_next = fetch_weights(tid % TILE_ROWS, u);
  let last_token = token_end() - 1u;
//#repeat n TWO
  x_next_${n} = x[x_token(min(first_token + ((tid + ${n}u * THREADS) >> 2u), last_token)) * X_ROW +
                  4u * u + (tid & 3u)];
//#end
}

// Four signed bytes, times scale plus offset, as halves.
fn halves(bytes: u32, scale: f32, offset: f32) -> vec2<u32> {
  let v = signed_bytes(bytes) * scale + offset;
  return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
}

fn stage(tid: u32, u: u32, side: u32) {
  let r = tid % TILE_ROWS;
//#repeat n DECODES
  {
    let h = (tid + ${n}u * THREADS) / TILE_ROWS;
    let quants = unpack(w_next, r, u, h);
    let scale = quants.scale * WEIGHT_SCALE;
    let offset = quants.offset * WEIGHT_SCALE;
    w_most = max(w_most, 128.0 * abs(scale) + abs(offset));
    let at = side * W_TILE + r * STRIDE + 2u * h;
    w_tiles[at] = vec4<u32>(halves(quants.bytes.x, scale, offset),
                            halves(quants.bytes.y, scale, offset));
    w_tiles[at + 1u] = vec4<u32>(halves(quants.bytes.z, scale, offset),
                                 halves(quants.bytes.w, scale, offset));
  }
//#end
//#repeat n TWO
  x_tiles[side * X_TILE + ((tid + ${n}u * THREADS) >> 2u) * STRIDE + (tid & 3u)] = x_next_${n};
//#end
}

fn x_scale(token: u32) -> f32 {
  return bitcast<f32>(x[x_tokens() * X_ROW + (token >> 2u)][token & 3u]);
}

// The tile's row r times the token, from weights in f32.
fn exact_sum(r: u32, token: u32) -> f32 {
  var sum = 0.0;
  for (var u = 0u; u < UNITS; u++) {
    let fetched = fetch_weights(r, u);
    for (var h = 0u; h < 2u; h++) {
      let quants = unpack(fetched, r, u, h);
      for (var i = 0u; i < 4u; i++) {
        let v = x[token * X_ROW + 4u * u + 2u * h + (i >> 1u)];
        let pair = select(v.xy, v.zw, (i & 1u) == 1u);
        sum += dot(signed_bytes(quants.bytes[i]) * quants.scale + quants.offset,
                   vec4<f32>(unpack2x16float(pair.x), unpack2x16float(pair.y)));
      }
    }
  }
  return sum * x_scale(token);
}

// Whether some weight of the workgroup's may be too large for a half; the same for all its threads.
fn out_of_range(subgroup: u32, lane: u32) -> bool {
  let most = subgroupMax(w_most);
  if (lane == 0u) {
    scratch[subgroup] = most;
  }
  workgroupBarrier();
  var all = 0.0;
  for (var i = 0u; i < THREADS / 32u; i++) {
    all = max(all, workgroupUniformLoad(&scratch[i]));
  }
  return all > MOST;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
//#if EXPERTS
  let tile = tiles[group.y];
  if (!is_ours(tile)) {
    return;
  }
  let first_token = place_tile(tile);
//#else
  let first_token = group.y * TILE_TOKENS;
//#endif
  locate(group.x);
  // Pairs of subgroups share the tile's tokens, and a pair its rows: each subgroup has 16 * EACH rows
  // of each half of the tile, by 32 tokens.
  let row_at = (subgroup & 1u) * (16u * EACH);
  let token_at = (subgroup >> 1u) * 32u;
//#repeat s TWO
//#repeat a EACH
//#repeat b TWO
  var sums_${s}_${a}_${b}: Sums;
//#end
//#end
//#end

  fetch(tid, first_token, 0u);
  for (var u = 0u; u < UNITS; u++) {
    let side = u & 1u;
    stage(tid, u, side);
    // What is read of the other side was read before this barrier: one a unit is enough.
    workgroupBarrier();
    if (u + 1u < UNITS) {
      fetch(tid, first_token, u + 1u);
    }
    for (var k = 0u; k < 2u; k++) {
//#repeat b TWO
      let right_${b} = subgroupMatrixLoad<Right, col_major>(
          &x_tiles, side * X_TILE + (token_at + 16u * ${b}u) * STRIDE + 2u * k, STRIDE);
//#end
//#repeat s TWO
//#repeat a EACH
      {
        let left = subgroupMatrixLoad<Left, row_major>(
            &w_tiles, side * W_TILE + (${s}u * HALF_TILE + row_at + 16u * ${a}u) * STRIDE + 2u * k,
            STRIDE);
//#repeat b TWO
        sums_${s}_${a}_${b} =
            subgroupMatrixMultiplyAccumulate(left, right_${b}, sums_${s}_${a}_${b});
//#end
      }
//#end
//#end
    }
  }

  if (out_of_range(subgroup, lane)) {
    for (var i = tid; i < GROUP_ROWS * TILE_TOKENS; i += THREADS) {
      let r = i % GROUP_ROWS;
      let token = first_token + i / GROUP_ROWS;
      if (token < token_end()) {
        let x_row = x_token(token);
//#if GEGLU
        store(y_token(token), first_row + r,
              gelu_tanh(exact_sum(r, x_row)) * exact_sum(r + GROUP_ROWS, x_row));
//#else
        store(y_token(token), first_row + r, exact_sum(r, x_row));
//#endif
      }
    }
    return;
  }

  // A thread writes eight sums of every 16 by 16: of one row, of every other token.
  let r = tid & 15u;
  let t = (tid >> 4u) & 1u;
  let own = (tid / 32u) * 256u;
  let row = first_row + ((tid / 32u) & 1u) * (16u * EACH) + r;
  let token = first_token + (tid / 64u) * 32u + t;
//#repeat s HALVES
//#repeat a EACH
//#repeat b TWO
  {
    workgroupBarrier();
    subgroupMatrixStore<col_major>(&scratch, subgroup * 256u, sums_${s}_${a}_${b}, 16u);
    workgroupBarrier();
//#if GEGLU
    var gates = array<f32, 8>();
    for (var i = 0u; i < 8u; i++) {
      gates[i] = scratch[own + 16u * (2u * i + t) + r];
    }
    workgroupBarrier();
    subgroupMatrixStore<col_major>(&scratch, subgroup * 256u, sums_1_${a}_${b}, 16u);
    workgroupBarrier();
//#endif
    for (var i = 0u; i < 8u; i++) {
      let at = token + 16u * ${b}u + 2u * i;
      if (at < token_end()) {
        let scale = x_scale(x_token(at)) / WEIGHT_SCALE;
        let sum = scratch[own + 16u * (2u * i + t) + r] * scale;
//#if GEGLU
        store(y_token(at), row + 16u * ${a}u, gelu_tanh(gates[i] * scale) * sum);
//#else
        store(y_token(at), row + ${s}u * HALF_TILE + 16u * ${a}u, sum);
//#endif
      }
    }
  }
//#end
//#end
//#end
}
