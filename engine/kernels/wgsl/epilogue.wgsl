// Activations of the last step of matvec and matmul.

// Beyond 10, tanh is 1 in f32; some drivers overflow in exp() there and answer NaN.
fn safe_tanh(x: f32) -> f32 { return tanh(clamp(x, -10.0, 10.0)); }

fn gelu_tanh(x: f32) -> f32 {
  return 0.5 * x * (1.0 + safe_tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

//#if SOFTCAP
fn softcap(x: f32) -> f32 { return CAP * safe_tanh(x / CAP); }
//#endif
