// How a token is drawn; the C++ twin is in sampling.h. The includer gives const K: u32.
struct SampleParams {
  temperature: f32,
  top_k: u32,
  top_p: f32,
  min_p: f32,
  want: u32,
  pad0: u32,
  pad1: u32,
  pad2: u32,
}

// How many of the largest logits are wanted.
fn wanted() -> u32 { return clamp(params.want, 1u, K); }

// exp(x), and exactly 0 where it is below the normal numbers.
fn weight_of(x: f32) -> f32 { return select(0.0, exp(max(x, -87.0)), x > -87.0); }

// At the temperature, relative to `top`.
fn sample_weight(logit: f32, top: f32) -> f32 {
  return weight_of((logit - top) / params.temperature);
}
