// Y = X W^T. A workgroup computes TILE_ROWS rows of W for TILE_TOKENS tokens, a unit (32 columns) at
// a time; each thread ROWS_EACH rows by 4 tokens. With GeGLU the first half of the rows is gate and
// the second half the same rows of up. While a unit is multiplied the next one is on its way to
// registers.
//
// matmul.cpp adds locate() (which rows this workgroup has), decode() (the codecs) and store().
//#include step.wgsl
const TILE_ROWS: u32 = 16u * ROWS_EACH;
const TILE_TOKENS: u32 = THREADS / 4u;
const TOKEN_STEP: u32 = THREADS / 16u;
// Odd, so that staging writes do not collide in a bank.
const X_STRIDE: u32 = TILE_TOKENS + 1u;

// Vector k of row r at k * TILE_ROWS + r; vector k of token t at k * X_STRIDE + t.
var<workgroup> w_tile: array<vec4<f32>, 8u * TILE_ROWS>;
var<workgroup> x_tile: array<vec4<f32>, 8u * X_STRIDE>;

var<private> segment: u32;
var<private> segment_rows: u32;
var<private> first_row: u32;
var<private> y_base: u32;  // of the segment's row 0, in a token's row of Y
//#repeat a ROWS_EACH
// Sums of row i + 16 * ${a}; component b: token j + TOKEN_STEP * b.
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
  let last_token = step.tokens - 1u;
  let i = tid % 16u;
  let j = tid / 16u;
  // What this thread brings of a unit: half units of rows, and two vectors of tokens.
//#repeat n DECODES
  let r_${n} = (tid + ${n}u * THREADS) % TILE_ROWS;
  let h_${n} = (tid + ${n}u * THREADS) / TILE_ROWS;
  var w_next_${n} = decode(r_${n}, 0u, h_${n});
//#end
  let x_k = tid & 7u;
//#repeat n TWO
  let t_${n} = (tid + ${n}u * THREADS) >> 3u;
  var x_next_${n} = x_vector(min(first_token + t_${n}, last_token), x_k);
//#end
  for (var u = 0u; u < UNITS; u++) {
//#repeat n DECODES
    for (var k = 0u; k < 4u; k++) {
      w_tile[(4u * h_${n} + k) * TILE_ROWS + r_${n}] = w_next_${n}[k];
    }
//#end
//#repeat n TWO
    x_tile[x_k * X_STRIDE + t_${n}] = x_next_${n};
//#end
    workgroupBarrier();
    if (u + 1u < UNITS) {
//#repeat n DECODES
      w_next_${n} = decode(r_${n}, u + 1u, h_${n});
//#end
//#repeat n TWO
      x_next_${n} = x_vector(min(first_token + t_${n}, last_token), (u + 1u) * 8u + x_k);
//#end
    }
    for (var k = 0u; k < 8u; k++) {
//#repeat b FOUR
      let x_${b} = x_tile[k * X_STRIDE + j + ${b}u * TOKEN_STEP];
//#end
//#repeat a ROWS_EACH
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
    let token = first_token + j + ${b}u * TOKEN_STEP;
    if (token < step.tokens) {
//#if GEGLU
//#repeat a HALF_ROWS
      store(token, first_row + i + ${a}u * 16u, gelu_tanh(sums_${a}[${b}]) * up_${a}(${b}u));
//#end
//#else
//#repeat a ROWS_EACH
      store(token, first_row + i + ${a}u * 16u, sums_${a}[${b}]);
//#end
//#endif
    }
  }
//#end
}
