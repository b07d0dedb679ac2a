// The bound of a short loop. Software GPUs unroll loops of known length into vast code that takes minutes to
// compile: there (LIGHT) the length passes through a value that the compiler cannot know. Main sets it first:
// hidden_zero = workgroup_id.z. Not for loops that hold barriers: the value does not count as uniform.
//#if LIGHT
var<private> hidden_zero: u32;
fn bound(n: u32) -> u32 {
  return n + hidden_zero;
}
//#else
fn bound(n: u32) -> u32 {
  return n;
}
//#endif
