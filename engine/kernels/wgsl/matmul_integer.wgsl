// The tiles of the matmul's integer form: weights and activations as signed bytes, in workgroup
// memory as they are multiplied, so that a thread reads there a quarter of what f32 takes. `x` is
// what quantize.h describes: X_VECTORS vectors a unit and token. A unit's product is
// scale of w * scale of x * (sum of products of bytes) + offset of w * sum of x.
const BYTE_VECTORS: u32 = X_VECTORS - 1u;

// Half h of row r at h * TILE_ROWS + r. Scale and offset are there too where halves have scales of
// their own (TWO_SCALES), else at r: of both.
var<workgroup> w_bytes: array<vec4<u32>, 2u * TILE_ROWS>;
var<workgroup> w_scales: array<vec2<f32>, W_SCALES * TILE_ROWS>;
// Vector v of token t at v * TILE_TOKENS + t: high bytes of half 0, of half 1, then low bytes.
var<workgroup> x_bytes: array<vec4<u32>, BYTE_VECTORS * TILE_TOKENS>;
// Scale, sum of values; where halves have offsets of their own (TWO_OFFSETS) also the halves' sums.
//#if TWO_OFFSETS
alias XScales = vec4<f32>;
//#else
alias XScales = vec2<f32>;
//#endif
var<workgroup> x_scales: array<XScales, TILE_TOKENS>;

// What this thread brings of the next unit: that of a row, whose halves several threads may share;
// a vector of a token; and the last quarter of the threads the scales.
var<private> w_next: Fetched;
var<private> x_next: vec4<u32>;
var<private> x_scale_next: XScales;

fn fetch(tid: u32, first_token: u32, u: u32) {
  // THREADS is a multiple of TILE_ROWS.
  w_next = fetch_weights(tid % TILE_ROWS, u);
  let v = tid / TILE_TOKENS;  // 0 to 3
  let at = u * X_VECTORS * x_tokens() +
           x_token(min(first_token + tid % TILE_TOKENS, token_end() - 1u));
  if (v < BYTE_VECTORS) {
    x_next = x[at + v * x_tokens()];
  }
  if (v == 3u) {
    let scales = bitcast<vec4<f32>>(x[at + BYTE_VECTORS * x_tokens()]);
//#if TWO_OFFSETS
    x_scale_next = scales;
//#else
    x_scale_next = scales.xy;
//#endif
  }
}

fn stage(tid: u32, u: u32) {
//#repeat n DECODES
  {
    let at = tid + ${n}u * THREADS;
    let quants = unpack(w_next, tid % TILE_ROWS, u, at / TILE_ROWS);
    w_bytes[at] = quants.bytes;
    if (at < W_SCALES * TILE_ROWS) {
      w_scales[at] = vec2<f32>(quants.scale, quants.offset);
    }
  }
//#end
  if (tid < BYTE_VECTORS * TILE_TOKENS) {
    x_bytes[tid] = x_next;
  }
  if (tid >= 3u * TILE_TOKENS) {
    x_scales[tid - 3u * TILE_TOKENS] = x_scale_next;
  }
}

// Software GPUs multiply four bytes at a time in a loop, for they take seconds to compile more.
//#if LIGHT
alias Part = u32;
const PARTS: u32 = 4u;
fn part(half: vec4<u32>, p: u32) -> Part { return half[p]; }
fn part_dot(w: Part, a: Part) -> i32 { return dot4I8Packed(w, a); }
//#else
alias Part = vec4<u32>;
const PARTS: u32 = 1u;
fn part(half: vec4<u32>, p: u32) -> Part { return half; }
fn part_dot(w: Part, a: Part) -> i32 { return packed_dot(w, a); }
//#endif

fn multiply(i: u32, j: u32) {
//#repeat b FOUR
  let x_scale_${b} = x_scales[j + ${b}u * TOKEN_STEP];
//#end
  let scales = vec4<f32>(x_scale_0.x, x_scale_1.x, x_scale_2.x, x_scale_3.x);
  // At most 32 * 128 * 16,319: far below 2^31.
//#repeat a ROWS_EACH
  var whole_${a} = vec4<i32>();
//#end
  for (var h = 0u; h < bound(2u); h++) {
    for (var p = 0u; p < bound(PARTS); p++) {
//#repeat b FOUR
      let high_${b} = part(x_bytes[h * TILE_TOKENS + j + ${b}u * TOKEN_STEP], p);
//#if TWO_BYTES
      let low_${b} = part(x_bytes[(2u + h) * TILE_TOKENS + j + ${b}u * TOKEN_STEP], p);
//#endif
//#end
//#repeat a ROWS_EACH
      {
        let w = part(w_bytes[h * TILE_ROWS + i + ${a}u * 16u], p);
        let high = vec4<i32>(part_dot(w, high_0), part_dot(w, high_1), part_dot(w, high_2),
                             part_dot(w, high_3));
//#if TWO_BYTES
        whole_${a} += high * 128 + vec4<i32>(part_dot(w, low_0), part_dot(w, low_1),
                                             part_dot(w, low_2), part_dot(w, low_3));
//#else
        whole_${a} += high;
//#endif
      }
//#end
    }
//#if TWO_SCALES
//#if TWO_OFFSETS
    let half_totals = vec4<f32>(x_scale_0[2u + h], x_scale_1[2u + h], x_scale_2[2u + h],
                                x_scale_3[2u + h]);
//#endif
//#repeat a ROWS_EACH
    {
      let w = w_scales[h * TILE_ROWS + i + ${a}u * 16u];
      sums_${a} += w.x * scales * vec4<f32>(whole_${a});
//#if TWO_OFFSETS
      sums_${a} += w.y * half_totals;
//#endif
    }
    whole_${a} = vec4<i32>();
//#end
//#endif
  }
//#if OFFSETS
//#if !TWO_OFFSETS
  let totals = vec4<f32>(x_scale_0.y, x_scale_1.y, x_scale_2.y, x_scale_3.y);
//#endif
//#endif
//#repeat a ROWS_EACH
//#if TWO_SCALES
//#if OFFSETS
//#if !TWO_OFFSETS
  sums_${a} += w_scales[i + ${a}u * 16u].y * totals;
//#endif
//#endif
//#else
  {
    let w = w_scales[i + ${a}u * 16u];
    sums_${a} += w.x * scales * vec4<f32>(whole_${a});
//#if OFFSETS
    sums_${a} += w.y * totals;
//#endif
  }
//#endif
//#end
}
