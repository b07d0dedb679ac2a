// Y = X W^T for few tokens: every weight is read and decoded once for COLUMNS of them. As in a matvec
// LANES neighbouring threads share a row of W and take its units in turn, each thread on ROWS rows at
// once (with GeGLU on as many of gate and of up). Activations come straight from memory: threads side
// by side read vectors side by side, and those of other rows the same ones.
//
// matmul.cpp adds locate() (which rows this workgroup has), decode() and store().
//#include step.wgsl
//#include bound.wgsl
//#include matmul_place.wgsl
//#include x_vector.wgsl
const SLOTS: u32 = THREADS / LANES;
const GROUP_ROWS: u32 = SLOTS * ROWS;
// Odd, so that lanes do not collide in a bank.
const PART_STRIDE: u32 = LANES + 1u;

// Lane l's part of row r of the workgroup, of four tokens, at r * PART_STRIDE + l; up after gate.
var<workgroup> parts: array<vec4<f32>, OUTPUTS * SLOTS * PART_STRIDE>;

//#repeat n OUTPUTS
//#repeat q QUADS
// Sums of row slot + SLOTS * ${n} for tokens 4 * ${q} to 4 * ${q} + 3 of the workgroup.
var<private> sums_${n}_${q}: vec4<f32>;
//#end
//#end

// Half h of unit u, by all tokens.
fn multiply(first_token: u32, slot: u32, u: u32, h: u32) {
//#repeat n OUTPUTS
  let w_${n} = decode(${n}u * SLOTS + slot, u, h);
//#end
  let k = 8u * u + 4u * h;
//#repeat q QUADS
  {
    let token = first_token + ${q}u * 4u;
    if (token < step.tokens) {
//#if LIGHT
      for (var i = 0u; i < bound(4u); i++) {
        let x = array<vec4<f32>, 4>(x_vector(token, k + i), x_vector(token + 1u, k + i),
                                    x_vector(token + 2u, k + i), x_vector(token + 3u, k + i));
//#repeat n OUTPUTS
        sums_${n}_${q} += vec4<f32>(dot(w_${n}[i], x[0]), dot(w_${n}[i], x[1]),
                                    dot(w_${n}[i], x[2]), dot(w_${n}[i], x[3]));
//#end
      }
//#else
//#repeat i FOUR
      {
        let x_0 = x_vector(token, k + ${i}u);
        let x_1 = x_vector(token + 1u, k + ${i}u);
        let x_2 = x_vector(token + 2u, k + ${i}u);
        let x_3 = x_vector(token + 3u, k + ${i}u);
//#repeat n OUTPUTS
        sums_${n}_${q} += vec4<f32>(dot(w_${n}[${i}], x_0), dot(w_${n}[${i}], x_1),
                                    dot(w_${n}[${i}], x_2), dot(w_${n}[${i}], x_3));
//#end
      }
//#end
//#endif
    }
  }
//#end
}

fn total(row: u32) -> vec4<f32> {
  var sum = vec4<f32>();
  for (var lane = 0u; lane < bound(LANES); lane++) {
    sum += parts[row * PART_STRIDE + lane];
  }
  return sum;
}

// Writes what the workgroup has for four tokens.
fn finish(tid: u32, token: u32) {
  for (var row = tid; row < GROUP_ROWS; row += THREADS) {
//#if GEGLU
    let gate = total(row);
    let up = total(GROUP_ROWS + row);
    let sum = vec4<f32>(gelu_tanh(gate.x), gelu_tanh(gate.y), gelu_tanh(gate.z), gelu_tanh(gate.w)) * up;
//#else
    let sum = total(row);
//#endif
    for (var b = 0u; b < bound(4u); b++) {
      if (token + b < step.tokens) {
        store(token + b, first_row + row, sum[b]);
      }
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  locate(group.x);
  let first_token = group.y * COLUMNS;
  let lane = tid % LANES;
  let slot = tid / LANES;
  for (var u = lane; u < UNITS; u += LANES) {
    for (var h = 0u; h < bound(2u); h++) {
      multiply(first_token, slot, u, h);
    }
  }
//#repeat q QUADS
  workgroupBarrier();
//#repeat n OUTPUTS
  parts[(${n}u * SLOTS + slot) * PART_STRIDE + lane] = sums_${n}_${q};
//#end
  workgroupBarrier();
  finish(tid, first_token + ${q}u * 4u);
//#end
}
