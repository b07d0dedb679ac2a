// Y = X W^T. A workgroup computes 64 rows of W for 32 tokens, a unit (32 columns) at a time: 128
// threads, each 4 rows by 4 tokens. With GeGLU the 64 rows are 32 of gate and the same 32 of up.
//
// matmul.cpp adds locate() (which rows this workgroup has), decode() (the codecs) and store().
//#include step.wgsl
const THREADS: u32 = 128u;
const TILE_ROWS: u32 = 64u;
const TILE_TOKENS: u32 = 32u;
// Odd, so that staging writes do not collide in a bank.
const X_STRIDE: u32 = TILE_TOKENS + 1u;

// Vector k of row r at k * TILE_ROWS + r; vector k of token t at k * X_STRIDE + t.
var<workgroup> w_tile: array<vec4<f32>, 8u * TILE_ROWS>;
var<workgroup> x_tile: array<vec4<f32>, 8u * X_STRIDE>;

var<private> segment: u32;
var<private> segment_rows: u32;
var<private> first_row: u32;
var<private> y_base: u32;  // of the segment's row 0, in a token's row of Y
//#repeat a FOUR
// Sums of row i + 16 * ${a}; component b: token j + 8 * b.
var<private> sums_${a}: vec4<f32>;
//#end

fn x_vector(token: u32, k: u32) -> vec4<f32> {
//#if ALIGNED
  if (4u * k < COLS) {
    return x[token * (COLS / 4u) + k];
  }
  return vec4<f32>(0.0);
//#else
  var v = vec4<f32>(0.0);
  for (var i = 0u; i < 4u; i++) {
    if (4u * k + i < COLS) {
      v[i] = x[token * COLS + 4u * k + i];
    }
  }
  return v;
//#endif
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
  locate(group.x);
  let first_token = group.y * TILE_TOKENS;
  let i = tid % 16u;
  let j = tid / 16u;
  for (var u = 0u; u < UNITS; u++) {
    // Threads 0-63 decode the first half of their row's unit, the others the second.
    let r = tid % TILE_ROWS;
    let h = tid / TILE_ROWS;
    let values = decode(r, u, h);
    for (var k = 0u; k < 4u; k++) {
      w_tile[(4u * h + k) * TILE_ROWS + r] = values[k];
    }
    for (var n = tid; n < 8u * TILE_TOKENS; n += THREADS) {
      let token = min(first_token + (n >> 3u), step.tokens - 1u);
      x_tile[(n & 7u) * X_STRIDE + (n >> 3u)] = x_vector(token, u * 8u + (n & 7u));
    }
    workgroupBarrier();
    for (var k = 0u; k < 8u; k++) {
//#repeat b FOUR
      let x_${b} = x_tile[k * X_STRIDE + j + ${b}u * 8u];
//#end
//#repeat a FOUR
      {
        let w = w_tile[k * TILE_ROWS + i + ${a}u * 16u];
        sums_${a} += vec4<f32>(dot(w, x_0), dot(w, x_1), dot(w, x_2), dot(w, x_3));
      }
//#end
    }
    workgroupBarrier();
  }
//#repeat b FOUR
  {
    let token = first_token + j + ${b}u * 8u;
    if (token < step.tokens) {
//#if GEGLU
      store(token, first_row + i, gelu_tanh(sums_0[${b}]) * sums_2[${b}]);
      store(token, first_row + i + 16u, gelu_tanh(sums_1[${b}]) * sums_3[${b}]);
//#else
//#repeat a FOUR
      store(token, first_row + i + ${a}u * 16u, sums_${a}[${b}]);
//#end
//#endif
    }
  }
//#end
}
