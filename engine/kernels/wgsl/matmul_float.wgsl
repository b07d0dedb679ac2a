// The tiles of the matmul's float form: weights are decoded to f32.
//
// Odd, so that staging writes do not collide in a bank.
const X_STRIDE: u32 = TILE_TOKENS + 1u;

// Vector k of row r at k * TILE_ROWS + r; vector k of token t at k * X_STRIDE + t.
var<workgroup> w_tile: array<vec4<f32>, 8u * TILE_ROWS>;
var<workgroup> x_tile: array<vec4<f32>, 8u * X_STRIDE>;

// What this thread brings of the next unit: half units of rows, and two vectors of tokens.
//#repeat n DECODES
var<private> w_next_${n}: mat4x4<f32>;
//#end
//#repeat n TWO
var<private> x_next_${n}: vec4<f32>;
//#end

fn x_vector(token: u32, k: u32) -> vec4<f32> {
//#if ALIGNED
  if (4u * k < COLS) {
    return x[token * (COLS / 4u) + k];
  }
  return vec4<f32>(0.0);
//#else
  var v = vec4<f32>(0.0);
  for (var i = 0u; i < bound(4u); i++) {
    if (4u * k + i < COLS) {
      v[i] = x[token * COLS + 4u * k + i];
    }
  }
  return v;
//#endif
}

fn fetch(tid: u32, first_token: u32, u: u32) {
//#repeat n DECODES
  w_next_${n} = decode((tid + ${n}u * THREADS) % TILE_ROWS, u, (tid + ${n}u * THREADS) / TILE_ROWS);
//#end
  let last_token = token_end() - 1u;
//#repeat n TWO
  x_next_${n} = x_vector(x_token(min(first_token + ((tid + ${n}u * THREADS) >> 3u), last_token)),
                         u * 8u + (tid & 7u));
//#if CLIP
  x_next_${n} = clamp(x_next_${n}, vec4<f32>(clip[0]), vec4<f32>(clip[1]));
//#endif
//#end
}

fn stage(tid: u32, u: u32) {
//#repeat n DECODES
  for (var k = 0u; k < 4u; k++) {
    w_tile[(4u * ((tid + ${n}u * THREADS) / TILE_ROWS) + k) * TILE_ROWS +
           (tid + ${n}u * THREADS) % TILE_ROWS] = w_next_${n}[k];
  }
//#end
//#repeat n TWO
  x_tile[(tid & 7u) * X_STRIDE + ((tid + ${n}u * THREADS) >> 3u)] = x_next_${n};
//#end
}

fn multiply(i: u32, j: u32) {
  for (var k = 0u; k < bound(8u); k++) {
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
}
