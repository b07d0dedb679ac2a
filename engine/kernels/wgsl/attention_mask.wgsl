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
