// Activations of T tokens as signed bytes, as quantize.h lays them out. A thread makes a unit (32
// columns) of a token; neighbouring threads have neighbouring tokens, as the vectors they write.
//#include step.wgsl
//#include activation_bytes.wgsl
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
  let token = group.x * THREADS + tid;
  let tokens = step.tokens * EACH;
  if (token >= tokens) {
    return;
  }
  let unit = group.y;
  let begin = (token * UNITS + unit) * 8u;
//#repeat k EIGHT
  let v_${k} = x[begin + ${k}u];
//#end
  let most = max(largest(v_0, v_1, v_2, v_3), largest(v_4, v_5, v_6, v_7));
  let inverse = inverse_scale(most);
  let scale = most / LIMIT;
//#repeat k EIGHT
  let q_${k} = rounded(v_${k}, inverse);
//#end
  let low = (q_0 + q_1) + (q_2 + q_3);
  let high = (q_4 + q_5) + (q_6 + q_7);
  let low_sum = low.x + low.y + low.z + low.w;
  let high_sum = high.x + high.y + high.z + high.w;
  let at = unit * VECTORS * tokens + token;
  quantized[at] = vec4<u32>(high_bytes(q_0), high_bytes(q_1), high_bytes(q_2), high_bytes(q_3));
  quantized[at + tokens] =
      vec4<u32>(high_bytes(q_4), high_bytes(q_5), high_bytes(q_6), high_bytes(q_7));
//#if TWO_BYTES
  quantized[at + 2u * tokens] =
      vec4<u32>(low_bytes(q_0), low_bytes(q_1), low_bytes(q_2), low_bytes(q_3));
  quantized[at + 3u * tokens] =
      vec4<u32>(low_bytes(q_4), low_bytes(q_5), low_bytes(q_6), low_bytes(q_7));
//#endif
  quantized[at + (VECTORS - 1u) * tokens] =
      bitcast<vec4<u32>>(vec4<f32>(1.0, f32(low_sum + high_sum), f32(low_sum), f32(high_sum)) * scale);
}
