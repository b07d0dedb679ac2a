// The patches of a picture; the C++ twin is in vision.h.
struct Grid {
  columns: u32,
  rows: u32,
}
