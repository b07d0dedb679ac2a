// The tokens of a workgroup of a matmul are [first_token, token_end()), of which x_token() is the row of X
// and y_token() that of Y. In a mixture of experts they are places in `order`, of one expert
// (place_tile; experts.h), elsewhere tokens themselves.
//#if EXPERTS
var<private> tile_end: u32;
var<private> expert_row: u32;  // of W: the expert's first

// Of a tile that is another part's nothing is to do.
fn is_ours(tile: vec4<u32>) -> bool { return tile.x - FIRST_EXPERT < EXPERT_COUNT; }
fn place_tile(tile: vec4<u32>) -> u32 {
  tile_end = tile.z;
  expert_row = (tile.x - FIRST_EXPERT) * EXPERT_STRIDE;
  return tile.y;
}
fn token_end() -> u32 { return tile_end; }
fn x_token(token: u32) -> u32 { return order[token] / SHARING; }
fn y_token(token: u32) -> u32 { return order[token]; }
fn x_tokens() -> u32 { return step.tokens * X_EACH; }
//#else
fn token_end() -> u32 { return step.tokens; }
fn x_token(token: u32) -> u32 { return token; }
fn y_token(token: u32) -> u32 { return token; }
fn x_tokens() -> u32 { return step.tokens; }
//#endif
