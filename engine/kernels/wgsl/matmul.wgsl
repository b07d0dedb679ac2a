// Y = X W^T. A workgroup computes TILE_ROWS rows of W for TILE_TOKENS tokens, a unit (32 columns) at
// a time; each thread ROWS_EACH rows by 4 tokens. With GeGLU the first half of the rows is gate and
// the second half the same rows of up. While a unit is multiplied the next one is on its way to
// registers.
//
// matmul_float.wgsl or matmul_integer.wgsl gives fetch() (a unit, from memory to registers), stage()
// (to workgroup memory) and multiply(). matmul.cpp adds locate() (which rows this workgroup has), the
// codecs and store().
//#include step.wgsl
//#include bound.wgsl
//#include matmul_place.wgsl
//#include matmul_tokens.wgsl
const TILE_ROWS: u32 = 16u * ROWS_EACH;
const TILE_TOKENS: u32 = THREADS / 4u;
const TOKEN_STEP: u32 = THREADS / 16u;

//#repeat a ROWS_EACH
// Sums of row i + 16 * ${a}; component b: token j + TOKEN_STEP * b.
var<private> sums_${a}: vec4<f32>;
//#end

//#if INTEGER
//#include matmul_integer.wgsl
//#else
//#include matmul_float.wgsl
//#endif

// Writes what this thread has for its token b.
fn finish(i: u32, token: u32, b: u32) {
  if (token < token_end()) {
//#if GEGLU
//#repeat a HALF_ROWS
    store(y_token(token), first_row + i + ${a}u * 16u, gelu_tanh(sums_${a}[b]) * up_${a}(b));
//#end
//#else
//#repeat a ROWS_EACH
    store(y_token(token), first_row + i + ${a}u * 16u, sums_${a}[b]);
//#end
//#endif
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
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
  let i = tid % 16u;
  let j = tid / 16u;
//#if !LIGHT
  fetch(tid, first_token, 0u);
//#endif
  for (var u = 0u; u < UNITS; u++) {
//#if LIGHT
    // Software GPUs have nothing to wait for, and compile fetch() once.
    fetch(tid, first_token, u);
//#endif
    stage(tid, u);
    workgroupBarrier();
//#if !LIGHT
    if (u + 1u < UNITS) {
      fetch(tid, first_token, u + 1u);
    }
//#endif
    multiply(i, j);
    workgroupBarrier();
  }
//#if LIGHT
  for (var b = 0u; b < bound(4u); b++) {
    finish(i, first_token + j + b * TOKEN_STEP, b);
  }
//#else
//#repeat b FOUR
  finish(i, first_token + j + ${b}u * TOKEN_STEP, ${b}u);
//#end
//#endif
}
