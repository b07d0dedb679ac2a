// The rows of all tokens' experts by expert, in tiles; experts.h says how. Rows of an expert come in any
// order: what is computed of a row does not depend on its place.
//#include step.wgsl
//#include bound.wgsl
var<workgroup> counts: array<atomic<u32>, COUNT>;
var<workgroup> firsts: array<u32, COUNT>;
var<workgroup> first_tiles: array<u32, COUNT>;
var<workgroup> all_tiles: u32;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if LIGHT
  hidden_zero = group.z;
//#endif
  let rows = step.tokens * USED;
  for (var row = thread; row < rows; row += THREADS) {
    atomicAdd(&counts[min(chosen[row].x, COUNT - 1u)], 1u);
  }
  workgroupBarrier();
  if (thread == 0u) {
    var first = 0u;
    var tile = 0u;
    for (var e = 0u; e < bound(COUNT); e++) {
      let count = atomicLoad(&counts[e]);
      firsts[e] = first;
      first_tiles[e] = tile;
      first += count;
      tile += (count + TILE - 1u) / TILE;
    }
    all_tiles = tile;
  }
  workgroupBarrier();
  for (var e = thread; e < COUNT; e += THREADS) {
    let end = firsts[e] + atomicLoad(&counts[e]);
    var tile = first_tiles[e];
    for (var begin = firsts[e]; begin < end; begin += TILE) {
      tiles[tile] = vec4<u32>(e, begin, min(begin + TILE, end), 0u);
      tile++;
    }
  }
  let most = (rows + TILE - 1u) / TILE + min(COUNT, rows);
  for (var tile = all_tiles + thread; tile < most; tile += THREADS) {
    tiles[tile] = vec4<u32>(0xFFFFFFFFu, 0u, 0u, 0u);
  }
  workgroupBarrier();
  for (var row = thread; row < rows; row += THREADS) {
    let e = min(chosen[row].x, COUNT - 1u);
    // Counted down to the expert's first.
    order[firsts[e] + atomicSub(&counts[e], 1u) - 1u] = row;
  }
}
