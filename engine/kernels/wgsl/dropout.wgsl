// y = x mask / (1 - p), or that added to y: which values fall out is a function of the seed and
// their index, so the way back finds the same ones again. The hash is PCG's output permutation over
// a linear step (O'Neill, 2014).
//#include step.wgsl
struct DropoutParams { seed: u32 }

fn mixed(x: u32) -> u32 {
  let state = x * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= COLS || id.y >= step.tokens) {
    return;
  }
  let at = id.y * COLS + id.x;
  let bits = mixed(mixed(mixed(dropout.seed) ^ SALT) ^ at);
  var value = 0.0;
  if (bits >= THRESHOLD) {
    value = x[at] * KEEP_SCALE;
  }
//#if ACCUMULATE
  y[at] += value;
//#else
  y[at] = value;
//#endif
}
