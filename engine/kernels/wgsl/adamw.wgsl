// A step of AdamW with decoupled decay, on gradients scaled so that their global norm, of which
// result[1] is the square, is at most clip (0: as it is). The gradients end as zeros.
struct AdamParams {
  rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
  decay: f32,         // rate times weight decay
  correction1: f32,   // 1 - beta1^step
  correction2: f32,   // 1 - beta2^step
  clip: f32,
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
  let i = (group.y * groups.x + group.x) * 256u + thread;
  if (i >= COUNT) {
    return;
  }
  var scale = 1.0;
  if (adam.clip > 0.0) {
    scale = min(1.0, adam.clip / (sqrt(result[1]) + 1e-6));
  }
  let g = gradients[i] * scale;
  let m = adam.beta1 * moments[2u * i] + (1.0 - adam.beta1) * g;
  let v = adam.beta2 * moments[2u * i + 1u] + (1.0 - adam.beta2) * g * g;
  moments[2u * i] = m;
  moments[2u * i + 1u] = v;
  gradients[i] = 0.0;
  values[i] = values[i] - adam.decay * values[i] -
              adam.rate / adam.correction1 * m / (sqrt(v / adam.correction2) + adam.epsilon);
}
