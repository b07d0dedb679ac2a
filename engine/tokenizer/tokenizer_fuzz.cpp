// Fuzzes encoding and decoding over a small vocabulary, in all three modes and as pieces; and, for
// inputs that begin with 'V', the reading of a hostile vocabulary.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "engine/tokenizer/test_vocabulary.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"

using namespace lapidary;
using namespace lapidary::tokenizer;

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

// The one character that encoding does not keep: the vocabulary's mark for a space.
std::string without_space_marks(std::string text) {
  for (size_t at = text.find("\xE2\x96\x81"); at != std::string::npos;
       at = text.find("\xE2\x96\x81", at)) {
    text.replace(at, 3, " ");
  }
  return text;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (!step.valid) return false;
    text.remove_prefix(step.length);
  }
  return true;
}

void fuzz_vocabulary(const uint8_t* data, size_t size) {
  TestVocabulary base = small_vocabulary();
  if (size < 4) return;
  const size_t cut = data[0], extra_tokens = data[1] % 8, extra_merges = data[2] % 8;
  const std::string tail(reinterpret_cast<const char*>(data + 3), size - 3);
  const size_t half = tail.size() * cut / 256;
  base.tokens += tail.substr(0, half);
  base.merges += tail.substr(half);
  base.token_count += extra_tokens;
  base.merge_count += extra_merges;
  for (size_t i = 0; i < extra_tokens; ++i) base.types.push_back(data[3 + i % (size - 3)] % 8);
  const auto tokenizer = Tokenizer::create(base.source());
  if (!tokenizer) {
    check(!tokenizer.error().message.empty());
    return;
  }
  const auto ids = tokenizer->encode(tail, {.specials = SpecialTokens::kParse});
  tokenizer->decode(ids, true);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer tokenizer = *Tokenizer::create(small_vocabulary().source());
  if (size > 0 && data[0] == 'V') {
    fuzz_vocabulary(data + 1, size - 1);
    return 0;
  }
  const std::string text(reinterpret_cast<const char*>(data), size);
  const std::string expected = without_space_marks(text);
  for (const auto mode :
       {SpecialTokens::kPlain, SpecialTokens::kUserDefined, SpecialTokens::kParse}) {
    const auto ids = tokenizer.encode(text, {.specials = mode});
    check(without_space_marks(tokenizer.decode(ids, true)) == without_space_marks(expected));
    if (mode == SpecialTokens::kPlain) {
      for (const uint32_t id : ids) check(!tokenizer.is_special(id));
    }
    StreamDecoder decoder(tokenizer, /*show_control=*/true);
    std::string streamed;
    for (const uint32_t id : ids) {
      const std::string part = decoder.push(id);
      check(is_utf8(part));
      streamed += part;
    }
    streamed += decoder.flush();
    check(is_utf8(streamed));
    if (is_utf8(text)) check(streamed == tokenizer.decode(ids, true));
  }
  // Cut into pieces by a byte that UTF-8 never holds; no user piece may yield a special token.
  std::vector<TextPiece> pieces;
  bool special = false;
  size_t specials_allowed = 0;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find('\xFE', start), text.size());
    pieces.push_back({std::string_view(text).substr(start, end - start), special});
    if (special)
      specials_allowed +=
          tokenizer.encode(pieces.back().text, {.specials = SpecialTokens::kParse}).size();
    special = !special;
    start = end + 1;
  }
  size_t specials = 0;
  std::string joined;
  for (const TextPiece& piece : pieces) joined += piece.text;
  const auto ids = tokenizer.encode_pieces(pieces);
  for (const uint32_t id : ids) specials += tokenizer.is_special(id);
  check(specials <= specials_allowed);
  check(without_space_marks(tokenizer.decode(ids, true)) == without_space_marks(joined));
  return 0;
}
