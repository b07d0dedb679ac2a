// How decode attention splits the keys of a head; its C++ twin is attention_splits().
// The includer gives const WINDOW, MAX_SPLITS and KEYS_PER_SPLIT: u32.
fn attention_keys(position: u32) -> u32 {
  let n = position + 1u;
  if (WINDOW != 0u) {
    return min(n, WINDOW);
  }
  return n;
}

fn attention_splits(position: u32) -> u32 {
  return clamp((attention_keys(position) + KEYS_PER_SPLIT - 1u) / KEYS_PER_SPLIT, 1u, MAX_SPLITS);
}
