// The tokens of a submission belong to one sequence or to several: each has a span of them. The
// includer binds spans: array<TokenSpan>; the C++ twin is in step.h.
struct TokenSpan {
  first: u32,
  tokens: u32,
  position: u32,
  sequence: u32,
}

// The span in which token `token` of the submission lies.
fn span_of(token: u32) -> TokenSpan {
  var s = 0u;
  while (s + 1u < step.spans && token >= spans[s + 1u].first) {
    s += 1u;
  }
  return spans[s];
}

// Part `index` of the submission when every span is cut into parts of `size` tokens: itself a span,
// of no tokens when there are fewer parts.
fn part_of_span(index: u32, size: u32) -> TokenSpan {
  var left = index;
  for (var s = 0u; s < step.spans; s += 1u) {
    let whole = spans[s];
    let parts = (whole.tokens + size - 1u) / size;
    if (left < parts) {
      let skipped = left * size;
      return TokenSpan(whole.first + skipped, min(size, whole.tokens - skipped),
                       whole.position + skipped, whole.sequence);
    }
    left -= parts;
  }
  return TokenSpan(0u, 0u, 0u, 0u);
}
