// dX = dY W, or that added to dX: the gradient of Y = X Wᵀ by its input. A workgroup computes 128
// columns for 64 tokens; each of its 128 threads 8 columns for 8 tokens. Rows of W pass through
// workgroup memory 16 at a time, decoded to f32. matmul_back.cpp adds locate() (where the rows of a
// chunk are) and decode().
//#include step.wgsl
//#include bound.wgsl
const THREADS: u32 = 128u;
const TILE_TOKENS: u32 = 64u;
const TILE_ROWS: u32 = 16u;
const VECTORS: u32 = 32u;  // of 4 columns
const Y_STRIDE: u32 = TILE_TOKENS + 1u;

var<private> segment: u32;
var<private> first_row: u32;
var<private> end_row: u32;
var<private> y_base: u32;  // of the segment's row 0, in a token's row of dY

var<workgroup> w_tile: array<vec4<f32>, TILE_ROWS * VECTORS>;
var<workgroup> y_tile: array<f32, TILE_ROWS * Y_STRIDE>;

// Of token ty * 8 + T: columns 4 tx … and 64 + 4 tx ….
//#repeat t EIGHT
var<private> low_${t}: vec4<f32>;
var<private> high_${t}: vec4<f32>;
//#end
//#if LIGHT
var<private> sums: array<vec4<f32>, 16>;
//#endif

fn stage(tid: u32, first_token: u32, first_unit: u32) {
  let r = tid % TILE_ROWS;
  let half = tid / TILE_ROWS;
  let unit = first_unit + (half >> 1u);
  var values = mat4x4<f32>();
  if (unit < UNITS && first_row + r < end_row) {
    values = decode(first_row + r, unit, half & 1u);
  }
  for (var k = 0u; k < 4u; k++) {
    w_tile[r * VECTORS + 4u * half + k] = values[k];
  }
  for (var e = tid; e < bound(TILE_TOKENS * TILE_ROWS); e += THREADS) {
    let row = first_row + e % TILE_ROWS;
    let token = first_token + e / TILE_ROWS;
    var value = 0.0;
    if (token < step.tokens && row < end_row) {
      value = dy[token * DY_STRIDE + y_base + row];
    }
    y_tile[(e % TILE_ROWS) * Y_STRIDE + e / TILE_ROWS] = value;
  }
}

fn store(token: u32, column: u32, value: vec4<f32>) {
  if (token >= step.tokens) {
    return;
  }
  for (var i = 0u; i < bound(4u); i++) {
    if (column + i < COLS) {
//#if ACCUMULATE
      dx[token * COLS + column + i] += value[i];
//#else
      dx[token * COLS + column + i] = value[i];
//#endif
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let first_token = group.y * TILE_TOKENS;
  let first_unit = group.x * 4u;
  let tx = tid % 16u;
  let ty = tid / 16u;
  for (var chunk = 0u; chunk < CHUNKS; chunk++) {
    locate(chunk);
    stage(tid, first_token, first_unit);
    workgroupBarrier();
    for (var r = 0u; r < bound(TILE_ROWS); r++) {
      let w_low = w_tile[r * VECTORS + tx];
      let w_high = w_tile[r * VECTORS + 16u + tx];
//#repeat t EIGHT
      {
        let y = y_tile[r * Y_STRIDE + 8u * ty + ${t}u];
        low_${t} += y * w_low;
        high_${t} += y * w_high;
      }
//#end
    }
    workgroupBarrier();
  }
  let column = 128u * group.x + 4u * tx;
//#if LIGHT
  // Software GPUs compile what stores a value anew for each place where it stands.
//#repeat t EIGHT
  sums[${t}u] = low_${t};
  sums[8u + ${t}u] = high_${t};
//#end
  for (var i = 0u; i < bound(16u); i++) {
    store(first_token + 8u * ty + (i & 7u), column + 8u * (i & 8u), sums[i]);
  }
//#else
//#repeat t EIGHT
  store(first_token + 8u * ty + ${t}u, column, low_${t});
  store(first_token + 8u * ty + ${t}u, column + 64u, high_${t});
//#end
//#endif
}
