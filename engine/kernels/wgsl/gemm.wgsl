// C = ALPHA A B, or that added to C, for small dense f32 matrices of any strides: the products of
// LoRA adapters and of their gradients. A workgroup of 16 x 16 threads computes TILE_M x TILE_N
// values; every one is one sum in ascending k, so equal inputs give equal bits. The twin of struct
// Gemm is gemm.h's GemmSpec.
//#include step.wgsl
//#include bound.wgsl
const THREADS: u32 = 256u;
struct Gemm {
  m: u32, n: u32, k: u32,
  a_offset: u32, a_m: u32, a_k: u32,
  b_offset: u32, b_n: u32, b_k: u32,
  c_offset: u32, c_m: u32,
  alpha: f32,
  accumulate: u32,
}

fn extent(x: u32) -> u32 { return select(x, step.tokens, x == 0u); }

// Odd, so that staging writes do not collide in a bank.
const A_STRIDE: u32 = TILE_M + 1u;
const B_STRIDE: u32 = TILE_N + 1u;
var<workgroup> a_tile: array<f32, TILE_K * A_STRIDE>;
var<workgroup> b_tile: array<f32, TILE_K * B_STRIDE>;

// sum_R_C: row ty + 16 R, column tx + 16 C of the tile.
//#repeat r M_EACH
//#repeat c N_EACH
var<private> sum_${r}_${c}: f32;
//#end
//#end

fn stage(tid: u32, m0: u32, n0: u32, k0: u32) {
  for (var e = tid; e < bound(TILE_M * TILE_K); e += THREADS) {
    let m = select(e % TILE_M, e / TILE_K, gemm.a_k == 1u);
    let k = select(e / TILE_M, e % TILE_K, gemm.a_k == 1u);
    var value = 0.0;
    if (m0 + m < extent(gemm.m) && k0 + k < extent(gemm.k)) {
      value = a[gemm.a_offset + (m0 + m) * gemm.a_m + (k0 + k) * gemm.a_k];
    }
    a_tile[k * A_STRIDE + m] = value;
  }
  for (var e = tid; e < bound(TILE_N * TILE_K); e += THREADS) {
    let n = select(e % TILE_N, e / TILE_K, gemm.b_k == 1u);
    let k = select(e / TILE_N, e % TILE_K, gemm.b_k == 1u);
    var value = 0.0;
    if (n0 + n < extent(gemm.n) && k0 + k < extent(gemm.k)) {
      value = b[gemm.b_offset + (n0 + n) * gemm.b_n + (k0 + k) * gemm.b_k];
    }
    b_tile[k * B_STRIDE + n] = value;
  }
}

fn store(m: u32, n: u32, sum: f32) {
  if (m < extent(gemm.m) && n < extent(gemm.n)) {
    let at = gemm.c_offset + m * gemm.c_m + n;
    c[at] = select(0.0, c[at], gemm.accumulate != 0u) + gemm.alpha * sum;
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let m0 = group.y * TILE_M;
  let n0 = group.x * TILE_N;
  let ty = tid / 16u;
  let tx = tid % 16u;
  for (var k0 = 0u; k0 < extent(gemm.k); k0 += TILE_K) {
    stage(tid, m0, n0, k0);
    workgroupBarrier();
    for (var k = 0u; k < bound(TILE_K); k++) {
//#repeat c N_EACH
      let b_${c} = b_tile[k * B_STRIDE + tx + 16u * ${c}u];
//#end
//#repeat r M_EACH
      let a_${r} = a_tile[k * A_STRIDE + ty + 16u * ${r}u];
//#repeat c N_EACH
      sum_${r}_${c} += a_${r} * b_${c};
//#end
//#end
    }
    workgroupBarrier();
  }
//#repeat r M_EACH
//#repeat c N_EACH
  store(m0 + ty + 16u * ${r}u, n0 + tx + 16u * ${c}u, sum_${r}_${c});
//#end
//#end
}
