// In place: logits become dL/dlogit before the softcap, factor (softmax - [word is the target])
// (1 - (logit / CAP)²).
//#include cross_entropy.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.y;
  let word = id.x;
  if (row >= step.tokens || word >= step.spans) {
    return;
  }
  let wanted = targets[row];
  var g = 0.0;
  if (wanted < VOCAB) {
    let y = logit(row, word);
    g = exp(y - state[row].x) / state[row].y;
    if (word + step.position == wanted) {
      g -= 1.0;
    }
    g *= params.factor;
//#if SOFTCAP
    g *= 1.0 - (y / CAP) * (y / CAP);
//#endif
  }
  logits[row * CHUNK + word] = g;
}
