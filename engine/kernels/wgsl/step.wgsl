// The uniform that all dispatches of a submission share; its C++ twin is step.h.
struct Step {
  position: u32,
  tokens: u32,
  sequence: u32,
  spans: u32,
}
