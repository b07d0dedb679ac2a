// The tokenizer against ids that other implementations gave: HF tokenizers and llama.cpp.
#include "engine/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "engine/reference/fixture.h"
#include "engine/tokenizer/test_vocabulary.h"

namespace lapidary::tokenizer {
namespace {

using reference::read_fixture_json;

using Ids = std::vector<uint32_t>;

Tokenizer make(const TestVocabulary& vocabulary) {
  auto tokenizer = Tokenizer::create(vocabulary.source());
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return *std::move(tokenizer);
}

// The Gemma 4 vocabulary, filled up to its full size with tokens that no text holds.
TestVocabulary gemma_vocabulary() {
  const Json json = read_fixture_json("gemma4/vocabulary_excerpt.json.gz");
  TestVocabulary v;
  const auto fill = [&](uint64_t end) {
    while (v.token_count < end)
      v.add_token(cat("<filler ", v.token_count, ">"), TokenType::kUnused);
  };
  for (const Json& token : json["tokens"]) {
    fill(token[0].get<uint64_t>());
    v.add_token(token[2].get<std::string>(), static_cast<TokenType>(token[1].get<int>()));
  }
  fill(json["size"].get<uint64_t>());
  for (const Json& merge : json["merges"]) v.add_merge(merge.get<std::string>());
  v.eos = {1, 106, 50};
  return v;
}

TEST(Tokenizer, MatchesEveryNanoCase) {
  const Tokenizer tokenizer = make(nano_vocabulary(read_fixture_json("nano/tokenizer.json.gz")));
  const Json cases = read_fixture_json("nano/tokenizer_cases.json");
  ASSERT_EQ(cases.size(), 252u);
  for (const Json& c : cases) {
    const auto text = c["text"].get<std::string>();
    const Ids ids = tokenizer.encode(text, {.specials = SpecialTokens::kParse});
    EXPECT_EQ(ids, c["ids"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer.decode(ids, /*show_control=*/true), c["decoded"].get<std::string>())
        << text;
  }
}

TEST(Tokenizer, MatchesGemmaVectors) {
  const Tokenizer tokenizer = make(gemma_vocabulary());
  ASSERT_EQ(tokenizer.size(), 262144u);
  const Json vectors = read_fixture_json("gemma4/tokenizer_vectors.json");
  ASSERT_EQ(vectors["plain_no_special"].size(), 42u);
  ASSERT_EQ(vectors["parse_special"].size(), 11u);
  for (const Json& c : vectors["plain_no_special"]) {
    const auto text = c["text"].get<std::string>();
    EXPECT_EQ(tokenizer.encode(text, {.specials = SpecialTokens::kUserDefined}),
              c["ids"].get<Ids>())
        << text;
    EXPECT_EQ(tokenizer.encode(text), c["ids"].get<Ids>()) << text;
  }
  for (const Json& c : vectors["parse_special"]) {
    const auto text = c["text"].get<std::string>();
    const Ids ids = tokenizer.encode(text, {.specials = SpecialTokens::kParse});
    EXPECT_EQ(ids, c["ids"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer.decode(ids, true), text);
  }
}

TEST(Tokenizer, MatchesTinyModels) {
  const Json json = read_fixture_json("gemma4/tiny_vocabulary.json");
  TestVocabulary v;
  for (size_t i = 0; i < json["tokens"].size(); ++i) {
    v.add_token(json["tokens"][i].get<std::string>(),
                static_cast<TokenType>(json["types"][i].get<int>()));
  }
  for (const Json& merge : json["merges"]) v.add_merge(merge.get<std::string>());
  v.bos = json["bos"].get<uint32_t>();
  v.eos = {json["eos"].get<uint32_t>()};
  const Tokenizer tokenizer = make(v);
  for (const Json& c : json["cases"]) {
    EXPECT_EQ(tokenizer.encode(c["text"].get<std::string>(), {true, SpecialTokens::kParse}),
              c["ids"].get<Ids>());
  }
  EXPECT_TRUE(tokenizer.is_end_of_generation(1));
  EXPECT_TRUE(tokenizer.is_end_of_generation(6)) << "<turn|> has id 6 here";
  EXPECT_FALSE(tokenizer.is_end_of_generation(106)) << "106 is a byte here";
}

// Specials in three modes: what a user writes stays plain.
TEST(Tokenizer, SpecialTokenModes) {
  const Tokenizer tokenizer = make(small_vocabulary());
  const std::string text = "<|turn>a<|tool_call><turn|";
  const auto count_specials = [&](SpecialTokens mode) {
    const Ids ids = tokenizer.encode(text, {.specials = mode});
    EXPECT_EQ(tokenizer.decode(ids, true), text);
    return std::ranges::count_if(ids, [&](uint32_t id) { return tokenizer.is_special(id); });
  };
  EXPECT_EQ(count_specials(SpecialTokens::kPlain), 0);
  EXPECT_EQ(count_specials(SpecialTokens::kUserDefined), 1);
  EXPECT_EQ(count_specials(SpecialTokens::kParse), 2);
}

TEST(Tokenizer, LongestSpecialWins) {
  TestVocabulary v = small_vocabulary();
  v.add_token("<|turn>ab", TokenType::kControl);
  const Tokenizer tokenizer = make(v);
  const uint32_t longer = tokenizer.size() - 1;
  EXPECT_EQ(tokenizer.encode("<|turn>ab", {.specials = SpecialTokens::kParse}), (Ids{longer}));
  EXPECT_EQ(tokenizer.encode("<|turn>a", {.specials = SpecialTokens::kParse}),
            (Ids{*tokenizer.find_special("<|turn>"), *tokenizer.vocabulary().find("a")}));
}

TEST(Tokenizer, PiecesMergeAcrossSeamsButSpecialsDoNot) {
  const Tokenizer tokenizer = make(small_vocabulary());
  const auto encode = [&](std::vector<TextPiece> pieces) {
    return tokenizer.encode_pieces(pieces);
  };
  EXPECT_EQ(encode({{"he", false}, {"llo", true}}), tokenizer.encode("hello"));
  EXPECT_EQ(encode({{"<|turn>", true}, {"hello", false}, {"<turn|>", true}}),
            tokenizer.encode("<|turn>hello<turn|>", {.specials = SpecialTokens::kParse}));
  EXPECT_EQ(encode({{"<|turn>", false}}), tokenizer.encode("<|turn>"));
  EXPECT_EQ(encode({{"<|tu", true}, {"rn>", false}}), tokenizer.encode("<|turn>"));
  EXPECT_EQ(encode({{"<|tu", false}, {"rn>", true}}), tokenizer.encode("<|turn>"));
}

TEST(Tokenizer, BosComesOnce) {
  const Tokenizer tokenizer = make(small_vocabulary());
  EXPECT_EQ(tokenizer.encode("", {.add_bos = true}), (Ids{2}));
  EXPECT_EQ(tokenizer.encode("<bos>", {true, SpecialTokens::kParse}), (Ids{2}));
  EXPECT_EQ(tokenizer.encode("a", {.add_bos = true}).front(), 2u);
  const std::vector<TextPiece> pieces = {{"<bos>", true}, {"a", false}};
  EXPECT_EQ(tokenizer.encode_pieces(pieces, true).size(), 2u);
}

TEST(Tokenizer, DecodeHidesControlAndKeepsUserDefined) {
  const Tokenizer tokenizer = make(small_vocabulary());
  const Ids ids =
      tokenizer.encode("<|turn>a b<|channel><unk>", {.specials = SpecialTokens::kParse});
  EXPECT_EQ(tokenizer.decode(ids),
            "a b<|channel><unk>");  // <unk> is text: unknown tokens never match
  EXPECT_EQ(tokenizer.decode(ids, true), "<|turn>a b<|channel><unk>");
  EXPECT_EQ(tokenizer.decode(Ids{3, 5, UINT32_MAX, tokenizer.size()}), "");
}

TEST(Tokenizer, InvalidUtf8ComesBack) {
  const Tokenizer tokenizer = make(small_vocabulary());
  for (const std::string text :
       {"\xFF", "a\xC3", "\xC3\xA9\xC3\xA9\xA9", "\xE4\xB8", "\xF0\x9F\x99", "\xED\xA0\x80",
        "\xC0\x80 hello", "\xF4\x90\x80\x80"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(Tokenizer, EveryWayOfMergingAgreesWithTheDefinition) {
  // The definition, word for word: repeatedly merge the pair of lowest rank, leftmost first.
  const Tokenizer tokenizer = make(nano_vocabulary(read_fixture_json("nano/tokenizer.json.gz")));
  const Vocabulary& v = tokenizer.vocabulary();
  const auto naive = [&](const std::string& text) {
    Ids ids;
    for (const char c : text)
      ids.push_back(c == ' ' ? v.space_token() : v.ascii_token(static_cast<uint8_t>(c)));
    for (;;) {
      size_t best = 0;
      Vocabulary::Merge merge;
      for (size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto candidate = v.merge(ids[i], ids[i + 1]);
        if (candidate.rank < merge.rank) merge = candidate, best = i;
      }
      if (merge.rank == kNoRank) return ids;
      ids[best] = merge.id;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
  };
  std::mt19937 random(7);
  const std::string alphabet = "    eeeaaatttoinsrhld.";
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (size_t n = random() % 80; n > 0; --n) text.push_back(alphabet[random() % alphabet.size()]);
    EXPECT_EQ(tokenizer.encode(text), naive(text)) << text;
  }
}

TEST(Tokenizer, LongLinesTakeNearLinearTime) {
  const Tokenizer tokenizer = make(small_vocabulary());
  const auto seconds = [&](const std::string& text) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::string words;
  while (words.size() < 200'000) words += " hello ab";
  // A quadratic merge takes minutes here; the bound leaves room for sanitizers and a loaded
  // machine.
  EXPECT_LT(seconds(std::string(200'000, 'a')), 60);
  EXPECT_LT(seconds(std::string(200'000, ' ')), 60);
  EXPECT_LT(seconds(std::string(200'000, '\n')), 60);
  EXPECT_LT(seconds(std::string(200'000, '\xFF')), 60);
  EXPECT_LT(seconds(words), 60);
}

TEST(StreamDecoder, NeverSplitsACharacter) {
  const Tokenizer tokenizer = make(small_vocabulary());
  const std::string text = "hello 世界 \xF0\x9F\x99\x82 é à\n";
  std::string whole;
  StreamDecoder decoder(tokenizer);
  for (const uint32_t id : tokenizer.encode(text)) {
    const std::string part = decoder.push(id);
    EXPECT_EQ(printable(part, 100).find('?'), part == "\n" ? 0 : std::string::npos) << part;
    whole += part;
  }
  EXPECT_EQ(whole, text);
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamDecoder, BrokenBytesShowAsReplacement) {
  const Tokenizer tokenizer = make(small_vocabulary());
  const auto stream = [&](const std::string& text) {
    StreamDecoder decoder(tokenizer);
    std::string out;
    for (const uint32_t id : tokenizer.encode(text)) out += decoder.push(id);
    return out + decoder.flush();
  };
  EXPECT_EQ(stream("a\xE4\xB8"), "a\xEF\xBF\xBD");
  EXPECT_EQ(stream("\xE4h"), "\xEF\xBF\xBDh");
  EXPECT_EQ(stream("\xFF\xFF"), "\xEF\xBF\xBD\xEF\xBF\xBD");
}

// Hostile and broken headers: each refused with its own message.
struct Broken {
  const char* name;
  void (*spoil)(TestVocabulary&);
  ErrorCode code;
  const char* message;
};
class BrokenVocabulary : public testing::TestWithParam<Broken> {};
TEST_P(BrokenVocabulary, IsRefused) {
  TestVocabulary v = small_vocabulary();
  GetParam().spoil(v);
  const auto tokenizer = Tokenizer::create(v.source());
  ASSERT_FALSE(tokenizer.has_value());
  EXPECT_EQ(tokenizer.error().code, GetParam().code);
  EXPECT_NE(tokenizer.error().message.find(GetParam().message), std::string::npos)
      << tokenizer.error().message;
}
INSTANTIATE_TEST_SUITE_P(
    Headers, BrokenVocabulary,
    testing::Values(Broken{"Empty",
                           [](TestVocabulary& v) {
                             v.token_count = 0;
                             v.types.clear();
                           },
                           ErrorCode::kInvalidFormat, "no vocabulary"},
                    Broken{"HugeCount", [](TestVocabulary& v) { v.token_count = UINT64_MAX; },
                           ErrorCode::kUnsupported, "at most"},
                    Broken{"CountPastData", [](TestVocabulary& v) { v.token_count = 100'000; },
                           ErrorCode::kTruncated, "do not fit"},
                    Broken{"CutToken", [](TestVocabulary& v) { v.tokens.pop_back(); },
                           ErrorCode::kTruncated, "claims"},
                    Broken{"HugeLength",
                           [](TestVocabulary& v) { v.tokens.replace(0, 8, 8, '\xFF'); },
                           ErrorCode::kTruncated, "entry 0 claims"},
                    Broken{"MissingTypes", [](TestVocabulary& v) { v.types.clear(); },
                           ErrorCode::kInvalidFormat, "0 types"},
                    Broken{"MissingByte", [](TestVocabulary& v) { v.types[15 + 'A'] = 1; },
                           ErrorCode::kInvalidFormat, "no byte token for byte 65"},
                    Broken{"MisnamedByte", [](TestVocabulary& v) { v.types[4] = 6; },
                           ErrorCode::kInvalidFormat, "not <0xHH>"},
                    Broken{"MergeOfOne", [](TestVocabulary& v) { v.add_merge("hello"); },
                           ErrorCode::kInvalidFormat, "not two pieces"},
                    Broken{"MergeOfNothing", [](TestVocabulary& v) { v.add_merge(""); },
                           ErrorCode::kInvalidFormat, "not two pieces"},
                    Broken{"MergeOfStrangers",
                           [](TestVocabulary& v) { v.add_merge("hello hello"); },
                           ErrorCode::kInvalidFormat, "no token"},
                    Broken{"CutMerge", [](TestVocabulary& v) { v.merges.pop_back(); },
                           ErrorCode::kTruncated, "merges"},
                    Broken{"BosOutside", [](TestVocabulary& v) { v.bos = 5000; },
                           ErrorCode::kInvalidFormat, "bos_token_id"},
                    Broken{"EosOutside", [](TestVocabulary& v) { v.eos = {1, 5000}; },
                           ErrorCode::kInvalidFormat, "eos_token_id"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Vocabulary, FullSizeStaysSmall) {
  TestVocabulary v = small_vocabulary();
  // As many tokens and merges as the real one: pairs and triples over 64 letters.
  std::vector<std::string> letters, pairs;
  for (int i = 0; i < 64; ++i) letters.push_back({'\xD0', static_cast<char>(0x80 + i)});
  for (const auto& letter : letters) v.add_token(letter);
  for (const auto& a : letters) {
    for (const auto& b : letters) {
      pairs.push_back(a + b);
      v.add_token(pairs.back());
      v.add_merge(a + " " + b);
    }
  }
  for (const auto& pair : pairs) {
    for (const auto& letter : letters) {
      v.add_token(pair + letter);
      v.add_merge(pair + " " + letter);
      v.add_merge(letter + " " + pair);
    }
  }
  ASSERT_GT(v.token_count, 262144u);
  ASSERT_GT(v.merge_count, 514906u);
  const auto vocabulary = Vocabulary::create(v.source());
  ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  EXPECT_LT(vocabulary->heap_bytes(), 25u << 20);
}

}  // namespace
}  // namespace lapidary::tokenizer
