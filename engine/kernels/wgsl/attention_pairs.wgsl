// What the kernels of queries and keys of a packed batch share: 16 by 16 pairs of a head at a time,
// a thread each, and tiles of their vectors, CHUNK elements at a time.
//#include step.wgsl
//#include bound.wgsl
const THREADS: u32 = 256u;
const CHUNK: u32 = 32u;
// Odd, so that staging writes do not collide in a bank.
const STRIDE: u32 = CHUNK + 1u;
var<workgroup> q_tile: array<f32, 16u * STRIDE>;
var<workgroup> k_tile: array<f32, 16u * STRIDE>;

//#if EVERY_KEY
fn visible(query: u32, key: u32) -> bool {
  return query < step.tokens && key < step.tokens;
}
fn first_key(query: u32) -> u32 {
  return 0u;
}
//#else
// Which keys a query of a packed batch sees. spans[t] is where the example of token t begins and
// ends: (first token, one past the last).
fn visible(query: u32, key: u32) -> bool {
  return query < step.tokens && key <= query && key >= spans[query].x &&
         (WINDOW == 0u || query - key < WINDOW);
}

// The first key that a query of the 16 from `query` on sees.
fn first_key(query: u32) -> u32 {
  if (WINDOW == 0u || query + 1u < WINDOW) {
    return spans[query].x;
  }
  return max(spans[query].x, query + 1u - WINDOW);
}

// One past the last query that sees `key`.
fn end_query(key: u32) -> u32 {
  if (WINDOW == 0u) {
    return spans[key].y;
  }
  return min(spans[key].y, key + WINDOW);
}
//#endif
