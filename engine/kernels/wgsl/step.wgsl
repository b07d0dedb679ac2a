// The uniform that all dispatches of a submission share; its C++ twin is step.h.
struct Step {
  position: u32,
  tokens: u32,
  row: u32,
  pad: u32,
}
